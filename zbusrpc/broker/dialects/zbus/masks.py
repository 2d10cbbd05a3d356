"""Masks: what the bits of `topic_mask` and `group_mask` mean, by the numbers of zbus 0.9 and later.

zbus 0.8 had other numbers and acted on none of them. A mask is kept as it was declared, so that it is told again; what
its bits ask for becomes options of topics and groups. A group whose mask is 0 follows its topic's. Pure.
"""

from enum import IntFlag
from typing import Any, Final

from zbusrpc.broker.storage.commit import Durability


class Mask(IntFlag):
    """Bits of a mask."""

    MEMORY = 1
    """The topic's messages need not survive the broker."""
    RPC = 2
    """The topic is a service's: what is produced to it are calls."""
    PROXY = 4
    PAUSE = 8
    """Nothing is delivered."""
    EXCLUSIVE = 16
    """One consumer at a time."""
    DELETE_ON_EXIT = 32
    """The group goes when its last consumer has left."""
    ACK_REQUIRED = 64
    """A message is done when the consumer says so."""


RPC: Final = int(Mask.RPC)
"""To be tested for each message: as a number it takes a tenth of the time."""


def topic_options(mask: int, *, is_new: bool) -> dict[str, Any]:
    """Return the options that a topic's mask asks for."""
    options: dict[str, Any] = {"mask": mask}
    if is_new and mask & Mask.MEMORY:
        options["durability"] = Durability.MEMORY
    return options


def group_options(mask: int, topic_mask: int) -> dict[str, Any]:
    """Return the options that a group's mask asks for."""
    bits = mask or topic_mask
    return {
        "mask": mask,
        "paused": bool(bits & Mask.PAUSE),
        "exclusive": bool(bits & Mask.EXCLUSIVE),
        "delete_on_exit": bool(bits & Mask.DELETE_ON_EXIT),
    }
