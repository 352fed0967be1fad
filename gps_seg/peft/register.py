"""Make peft know a method that is not among its own.

``peft.utils.register_peft_method`` takes plug-ins, but only under names that its enumeration of methods holds (peft 0.21.2, issue
#2273), so the name is added first. Python's enumerations have no public way to grow; what is written here is what
``enum.EnumType`` itself writes when the class is made.
"""

from __future__ import annotations

from typing import Any

from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "GPS"


def register(config: type, tuner: type) -> None:
    """Add the method; nothing if it is known already."""
    kind: Any = PeftType
    if NAME in kind.__members__:
        return
    member = str.__new__(kind, NAME)
    member._name_, member._value_ = NAME, NAME
    setattr(kind, NAME, member)  # first: what the enumeration holds can't be set
    kind._member_map_[NAME] = kind._value2member_map_[NAME] = member
    kind._member_names_.append(NAME)
    register_peft_method(name=NAME.lower(), config_cls=config, model_cls=tuner)
