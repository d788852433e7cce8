"""Any classifier of torchvision."""

from __future__ import annotations

from torch import nn

from sparsebench.errors import SettingError, one_of
from sparsebench.models.initialization import check_size

LEAST = 32  # pixels: five halvings
LEAST_OF = {"inception_v3": 75, "alexnet": 63}
ANY_SIZE = ("resnet", "resnext", "wide_resnet")  # the last maps of small images are one pixel


def classifier(input_shape: tuple[int, int, int], num_classes: int, name: str = "resnet50") -> nn.Module:
    """Any image classifier of torchvision by its name there, with random weights.

    Args:
        input_shape: Channels, height, width of the images: 3 channels; at least 32 pixels but for ResNets, ResNeXts.
        num_classes: Number of classes.
        name: Name in torchvision.models, for example ``resnet50``.

    References:
        TorchVision maintainers and contributors, "TorchVision: PyTorch's Computer Vision library", 2016.
    """
    from torchvision import models  # here: slow to import, and only this model needs it

    known = models.list_models(module=models)
    if name not in known:
        raise SettingError("name", name, one_of(known, name))
    channels, height, width = input_shape
    if channels != 3:
        raise SettingError("model", "torchvision", f"images of 3 channels for it; these have {channels}")
    check_size(name, input_shape, 1 if name.startswith(ANY_SIZE) else LEAST_OF.get(name, LEAST))
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        if height != width:
            raise SettingError("name", name, f"square images for it; these have {height}x{width}")
        patch = int(name.rsplit("_", 1)[1])
        if height % patch:
            raise SettingError(
                "name", name, f"images of a multiple of {patch} pixels for it; these have {height}"
            )
        options["image_size"] = height
    if name == "maxvit_t" and (height, width) != (224, 224):
        raise SettingError("name", name, f"images of 224x224 pixels for it; these have {height}x{width}")
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    model = models.get_model(name, weights=None, num_classes=num_classes, **options)
    model.name = name
    return model
