"""A new method costs one function: say how much each token is worth, and the base class keeps the best within budget.

python examples/add_a_compressor.py
"""

import torch

from omnisift import Budget, Modality, ScoredCompressor, TokenStream, build_stream, make_compressor, register


@register  # from here on the method has a name, alone and beside others
class Loudest(ScoredCompressor):
    """Keep the tokens with the largest norm."""

    name = "loudest"
    idea = "keeps the tokens with the largest norm"
    source = "this example"

    def score(self, stream: TokenStream) -> torch.Tensor:
        return stream.embeds.norm(dim=-1)


# Two frames of four video tokens and three audio tokens: one chunk of a clip, as a model would hand it over.
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

# Behind the plus stands whose sound is kept beside this method's picture.
for name in ("loudest", "loudest+uniform", "uniform+loudest"):
    selection = make_compressor(name, Budget(retain_video=0.5, retain_audio=0.5))(stream)
    print(f"{name}: kept tokens {selection.indices.tolist()}")
