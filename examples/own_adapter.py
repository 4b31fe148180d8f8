"""Compress the prompts of a model that is not in Transformers, such as one behind remote code, by your own adapter.

    python examples/own_adapter.py

The stand-in below is built as such models often are: names of its own, one class that is head and core, media at the
id of an unknown token between marks, and a unit of one frame and its audio for each second. The adapter says where the
modules are, which tokens are media, and when and where each of them was. The last lines compare a compressed prompt
with the model itself, whose mask hides the dropped tokens.
"""

import torch
import transformers

import omnisift

UNKNOWN, UNIT, LOOK, LOOK_END, HEAR, HEAR_END = range(6)
SIDE, HEARD = 4, 10  # a frame has 4 x 4 tokens, a second of audio has 10


class StandInConfig(transformers.PreTrainedConfig):
    model_type = "stand_in"


class StandIn(torch.nn.Module):
    """A language model of Transformers behind two encoders."""

    def __init__(self):
        super().__init__()
        self.config = StandInConfig()
        self.vpm = torch.nn.Linear(12, 32)  # patches of 2 x 2 pixels
        self.apm = torch.nn.Linear(16, 32)
        self.llm = transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(
                vocab_size=100,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                initializer_range=0.2,
            )
        )

    def forward(self, input_ids, attention_mask, patches, audio_features, position_ids=None):
        embeds = self.llm.get_input_embeddings()(input_ids)
        embeds = embeds.masked_scatter(between(input_ids, LOOK, LOOK_END)[..., None], self.vpm(patches))
        embeds = embeds.masked_scatter(between(input_ids, HEAR, HEAR_END)[..., None], self.apm(audio_features))
        return self.llm(inputs_embeds=embeds, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)


def between(ids, start, end):
    """[batch, length] bool: unknown tokens between two marks."""
    return (ids == UNKNOWN) & ((ids == start).cumsum(1) > (ids == end).cumsum(1))


class StandInAdapter(omnisift.Adapter):
    model_types = frozenset({"stand_in"})
    model_class = "StandIn"

    def find_parts(self, model):
        # The language model must take inputs_embeds, position_ids and attention_mask by name.
        return omnisift.Parts(head=model, core=model, language_model=model.llm)

    def modality(self, input_ids, arguments=None):  # noqa: ARG002
        kinds = torch.full_like(input_ids, int(omnisift.Modality.TEXT), dtype=torch.int8)
        kinds[between(input_ids, LOOK, LOOK_END)] = int(omnisift.Modality.VIDEO)
        kinds[between(input_ids, HEAR, HEAR_END)] = int(omnisift.Modality.AUDIO)
        return kinds

    def layout(self, prompt):
        kinds = prompt.modality
        # One clip in each row; text is outside.
        clip = torch.arange(len(kinds))[:, None].expand_as(kinds)
        clip = torch.where(kinds == int(omnisift.Modality.TEXT), -1, clip)
        # The number of a media token behind the mark before it.
        place = torch.arange(kinds.shape[1]).expand_as(kinds)
        rank = place - torch.where(clip < 0, place, 0).cummax(dim=1).values - 1
        # Microseconds since the start of the clip, and rows and columns of video tokens.
        second = (prompt.input_ids == UNIT).cumsum(1) - 1
        video = kinds == int(omnisift.Modality.VIDEO)
        time = second * 1_000_000 + torch.where(video, 0, rank * 1_000_000 // HEARD)
        position = torch.stack([time, video * (rank // SIDE), video * (rank % SIDE)])
        return omnisift.Layout(kinds, clip, position * (clip >= 0))


torch.manual_seed(0)
model = StandIn().eval()
frame, heard = [LOOK, *[UNKNOWN] * SIDE**2, LOOK_END], [HEAR, *[UNKNOWN] * HEARD, HEAR_END]
ids = torch.tensor([[*range(10, 18), *[UNIT, *frame, *heard] * 6, *range(30, 36)]])
inputs = {
    "input_ids": ids,
    "attention_mask": torch.ones_like(ids),
    "patches": torch.randn(6 * SIDE**2, 12),
    "audio_features": torch.randn(6 * HEARD, 16),
}

with omnisift.attach(model, "uniform", retain=0.25, adapter=StandInAdapter) as attachment, torch.no_grad():
    cut = model(**inputs).logits[0]
kept = attachment.last
print(f"video {kept.n_video} -> {kept.kept_video}, audio {kept.n_audio} -> {kept.kept_audio}")

# Without the adapter: a query sees itself and the kept tokens before it, at the positions that they had.
keep = kept.keep[0]
seen = torch.ones(len(keep), len(keep)).tril().bool() & (keep | torch.eye(len(keep)).bool())
mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
positions = torch.arange(len(keep))[None]
with torch.no_grad():
    masked = model(**{**inputs, "attention_mask": mask}, position_ids=positions).logits[0, keep]
assert (cut - masked).abs().max() < 1e-4 < (cut[1:] - masked[:-1]).abs().max()
print("the model reads the kept tokens as it would read them itself")
