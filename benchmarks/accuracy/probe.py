"""Each estimator's gradient at the width of 7B against the exact effect of every audio token.

The weights of 7B are not available here, so the language model is random: the real class at the real width (3,584; 28
heads, 4 of keys; 18,944 in the feed-forward part), four layers deep, with the real initialisation. A prompt has one
chunk; random scores keep half of its audio, and the answer is random words. The *benefit* of a token comes from exact
ablation: how much the loss rises when a kept token is dropped, or falls when a dropped one is added. An estimator is
right if minus its gradient ranks tokens as the benefit does. Prints one JSON line: Spearman's correlation for each
prompt.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.estimators import ESTIMATORS, Choice, make_estimator
from omnisift.estimators.reinforce import leave_one_out
from omnisift.models.question_attention import QuestionAttention
from omnisift.ops.topk import row_topk
from omnisift.utils.provenance import machine_info

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for tests.helpers

WIDTH, VIDEO, AUDIO, TEXT, ANSWER = 3584, 16, 30, 16, 4
SAMPLES = {"gumbel": 8, "perturbed": 8, "reinforce": 64}
"""Choices sampled for one gradient; the other estimators need one."""


def build(layers: int, width: int) -> Any:
    """(language model, head) of a random thinker."""
    import tests.helpers.models as tiny
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    heads, size = width // 128, {"hidden_size": width, "intermediate_size": width * 37 // 7, "initializer_range": 0.02}
    config = tiny.thinker_config(
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 7), vocab_size=2000,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}, **size,
    )  # fmt: skip
    config.vision_config.out_hidden_size = config.audio_config.output_dim = width
    config.initializer_range = 0.02
    torch.manual_seed(0)
    model = Thinker._from_config(config, attn_implementation="sdpa").eval()
    model.requires_grad_(False)
    return model


class Prompt:
    """Random embeddings of one chunk, a question and an answer, at the scale of word embeddings."""

    def __init__(self, model: Any, seed: int) -> None:
        import tests.helpers.models as tiny

        self.language, self.head = tiny.language_model(model), model.lm_head
        random = torch.Generator().manual_seed(seed)
        words = torch.randint(100, 2000, (TEXT + ANSWER,), generator=random)
        text = model.get_input_embeddings()(words)
        scale, width = float(text.square().mean().sqrt()), text.shape[1]
        events = torch.randn(6, width, generator=random)[torch.randint(6, (AUDIO,), generator=random)]
        media = torch.randn(VIDEO + AUDIO, width, generator=random)
        media[VIDEO:] = 0.8 * events + 0.6 * media[VIDEO:]
        self.embeds = torch.cat([media * scale, text])
        self.words = words
        self.logits = torch.randn(1, AUDIO, generator=random)
        self.count = torch.tensor([AUDIO // 2])

    def loss(self, choice: Choice) -> Tensor:
        """Mean cross-entropy of the answer when the model reads the tokens of ``choice``."""
        audio, keep = self.embeds[VIDEO : VIDEO + AUDIO], choice.keep[0]
        if choice.mix is not None:
            audio = choice.mix[0] @ audio
        if choice.gate is not None:
            audio = audio * choice.gate[0][:, None]
        embeds = torch.cat([self.embeds[:VIDEO], audio, self.embeds[VIDEO + AUDIO :]])
        kept = torch.ones(len(embeds), dtype=torch.bool)
        kept[VIDEO : VIDEO + AUDIO] = keep
        position = torch.nonzero(kept)[:, 0]
        mask = torch.full((len(position), len(position)), torch.finfo(torch.float32).min).triu(1)
        if choice.bias is not None:
            bias = torch.zeros(len(embeds)).index_put((torch.arange(VIDEO, VIDEO + AUDIO),), choice.bias[0])
            mask = mask + bias[position]
        hidden = self.language(
            inputs_embeds=embeds[position][None], position_ids=position.expand(3, 1, -1),
            attention_mask=mask[None, None], use_cache=False,
        ).last_hidden_state[0]  # fmt: skip
        return F.cross_entropy(self.head(hidden[-ANSWER - 1 : -1]), self.words[-ANSWER:])

    @torch.no_grad()
    def benefit(self) -> Tensor:
        """[A]: how much each token lowers the loss, given the tokens that are kept."""
        keep = row_topk(self.logits, self.count)
        base, benefits = float(self.loss(Choice(keep))), []
        for token in range(AUDIO):
            other = keep.clone()
            other[0, token] = ~other[0, token]
            change = float(self.loss(Choice(other))) - base
            benefits.append(change if keep[0, token] else -change)
        return torch.tensor(benefits)

    def descent(self, name: str, progress: float) -> Tensor:
        """[A]: minus the gradient of the loss with respect to each token's logit."""
        estimator = make_estimator(name)
        estimator.progress = progress
        logits = self.logits.clone().requires_grad_()
        samples = SAMPLES.get(name, 1)
        if name == "reinforce":
            choices = [estimator.choose(logits, self.count) for _ in range(samples)]
            with torch.no_grad():
                losses = torch.stack([self.loss(choice) for choice in choices])
            torch.stack([choice.log_prob[0] for choice in choices]).mul(leave_one_out(losses)).mean().backward()
        else:
            for _ in range(samples):
                (self.loss(estimator.choose(logits, self.count)) / samples).backward()
        return -logits.grad[0]

    @torch.no_grad()
    def attention(self) -> Tensor:
        """[A]: attention from the position where the answer begins, with all tokens kept."""
        prompt = self.embeds[: len(self.embeds) - ANSWER]
        probe = QuestionAttention(self.language)
        with probe.record(torch.tensor([len(prompt) - 1])):
            self.language(inputs_embeds=prompt[None], use_cache=False)
        return probe.weights()[0, VIDEO : VIDEO + AUDIO]


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([value.argsort().argsort().float() for value in (a, b)])
    return round(float(torch.corrcoef(ranks)[0, 1]), 3)


def probe(model: Any, seed: int) -> dict[str, float]:
    """Measure one prompt. ``straight_through`` is also ranked among kept tokens alone: it is 0 for dropped ones."""
    torch.manual_seed(seed)
    prompt = Prompt(model, seed)
    benefit, keep = prompt.benefit(), row_topk(prompt.logits, prompt.count)[0]
    result = {"attention": spearman(prompt.attention(), benefit)}
    for name in ESTIMATORS:
        for progress in (0.0, 0.8) if name not in ("straight_through", "reinforce") else (0.0,):
            descent = prompt.descent(name, progress)
            result[f"{name}@{progress:g}"] = spearman(descent, benefit)
            if name == "straight_through":
                result["straight_through, kept only"] = spearman(descent[keep], benefit[keep])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build(options.layers, options.width)
    runs = []
    for seed in range(options.prompts):
        runs.append(probe(model, seed))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    about = {"bench": "probe", "width": options.width, "layers": options.layers, "prompts": runs}
    print(json.dumps(about | machine_info("torch", "transformers")))


if __name__ == "__main__":
    main()
