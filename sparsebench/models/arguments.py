"""Checks of the arguments that models take; each refusal is one line that names the argument."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sparsebench.errors import SettingError, one_of


def is_whole(value: object, least: int = 1) -> bool:
    """Whether ``value`` is an integer of at least ``least``; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(setting: str, value: object, least: int = 1) -> None:
    """Refuse what is not an integer of at least ``least``."""
    if not is_whole(value, least):
        raise SettingError(setting, value, f"a whole number of at least {least}")


def check_switch(setting: str, value: object) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        raise SettingError(setting, value, "true or false")


def check_probability(setting: str, value: object) -> None:
    """Refuse what is not a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise SettingError(setting, value, "a probability in [0, 1)")


def check_option(setting: str, value: object, options: Collection[object]) -> None:
    """Refuse what is not one of ``options``."""
    if isinstance(value, bool) or value not in options:
        raise SettingError(setting, value, one_of(options, value))


def check_input(model: str, input_shape: Sequence[int], num_classes: int, pixels: int = 1) -> None:
    """Refuse images that a model cannot take.

    Args:
        model: The model's name.
        input_shape: (channels, height, width) of an image.
        num_classes: Number of classes.
        pixels: The least height and width that leave the last layer something to look at.
    """
    if len(input_shape) != 3 or not all(is_whole(size) for size in input_shape):
        raise SettingError("input_shape", input_shape, "three whole numbers: channels, height, width")
    check_whole("num_classes", num_classes)
    if min(input_shape[1:]) < pixels:
        raise SettingError(
            "input_shape",
            input_shape,
            f"images of at least {pixels}x{pixels} pixels for model {model}; choose another model or data set",
        )
