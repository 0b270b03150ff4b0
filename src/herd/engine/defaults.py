"""Default sampling options of a model: what its checkpoint recommends, else its makers' advice.

Sources: Meta's generation_config.json of Llama 3 and Llama 4 instruct models (temperature 0.6, top_p 0.9); the model
card of SmolLM2-Instruct (temperature 0.2, top_p 0.9). SmolLM2 is small enough to fall into repeating itself: a mild
repetition penalty of 1.1 is ours.
"""

from collections.abc import Mapping

from herd.engine.request import SamplingOptions
from herd.errors import BadConfig, UsageError, fail

LLAMA = SamplingOptions(temperature=0.6, top_p=0.9)
SMOLLM2 = SamplingOptions(temperature=0.2, top_p=0.9, repetition_penalty=1.1)


def sampling_defaults(recommended: Mapping[str, float], makers: SamplingOptions) -> SamplingOptions:
    """The makers' options, replaced where the checkpoint recommends a value (option name -> value).

    Raises BadConfig naming the option when its value makes no sense.
    """
    try:
        return makers.with_(recommended)
    except UsageError as error:
        fail(BadConfig, f"the checkpoint's sampling advice: {error}")
