"""Add a method: write one function that scores every token; the base class keeps the best within the budget.

python examples/add_a_compressor.py
"""

import torch

from omnisift import Budget, Modality, ScoredCompressor, TokenStream, build_stream, make_compressor, register


@register  # from here on the method has a name, alone and in pairs
class Loudest(ScoredCompressor):
    """Keep the tokens with the largest norm."""

    name = "loudest"
    idea = "keeps the tokens with the largest norm"
    source = "this example"

    def score(self, stream: TokenStream) -> torch.Tensor:
        return stream.embeds.norm(dim=-1)


# Two frames of four video tokens and three audio tokens: one chunk of a clip, as a model supplies it.
V, A = int(Modality.VIDEO), int(Modality.AUDIO)
modality = torch.tensor([V] * 8 + [A] * 3, dtype=torch.int8)
time = torch.tensor([0] * 4 + [25] * 4 + [0, 1, 2])
stream = build_stream(
    embeds=torch.arange(11.0).unsqueeze(1).repeat(1, 16),
    modality=modality,
    position=time.repeat(3, 1),
    sample=torch.zeros(11, dtype=torch.int64),
    seconds_per_position=0.04,
)

# A pair takes the video tokens of the first method and the audio tokens of the second.
half = Budget(retain_video=0.5, retain_audio=0.5)
for name in ("loudest", "loudest+uniform", "uniform+loudest"):
    selection = make_compressor(name, half)(stream)
    print(f"{name}: kept tokens {selection.indices.tolist()}")
