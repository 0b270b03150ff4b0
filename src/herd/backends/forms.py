"""The forms that other sides speak, by the name that a target has for its own (`Target.form`)."""

from collections.abc import Mapping

from herd.backends.converse import ConverseForm
from herd.backends.openai_form import OpenAIForm
from herd.backends.replicate import ReplicateForm
from herd.backends.target import Form, Target
from herd.backends.wire import WireForm

FORMS: Mapping[Form, WireForm] = {"openai": OpenAIForm(), "converse": ConverseForm(), "replicate": ReplicateForm()}


def form_of(target: Target) -> WireForm:
    """The form that requests to a target have."""
    return FORMS[target.form]
