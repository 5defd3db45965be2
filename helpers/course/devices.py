"""Finding tensors that are not on the device of their module (notebook 02)."""

import torch
from torch.overrides import TorchFunctionMode


class OneDevice(TorchFunctionMode):
    """Inside it, a call raises RuntimeError if its tensors are on two devices.

    The meta device alone lets some such calls pass that a GPU refuses: embeddings and matrix products among them.
    Allowed, as on a GPU, are single numbers, an index in brackets and calls that copy from device to device.
    """

    ALLOWED = {"__getitem__", "to", "type_as", "copy_"}

    def __init__(self):
        super().__init__()
        self.called = set()  # the names of the functions called inside

    def __torch_function__(self, function, types, args=(), kwargs=None):
        tensors = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, torch.Tensor) and a.ndim]
        devices = sorted({tensor.device.type for tensor in tensors})
        if len(devices) > 1 and function.__name__ not in self.ALLOWED:
            raise RuntimeError(f"{function.__name__} got tensors on two devices, {' and '.join(devices)}.")
        self.called.add(function.__name__)
        return function(*args, **(kwargs or {}))


def stray_tensors(module, device):
    """The dotted names of the attributes of a module and its submodules that hold a tensor on another device."""
    names = []
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            tensors = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(tensor, torch.Tensor) and tensor.device.type != device for tensor in tensors):
                names.append(f"{name}.{attribute}" if name else attribute)
    return names
