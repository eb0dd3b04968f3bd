"""The devices that a command may run on, and the one it takes by default."""

DEVICES = ("cpu", "cuda", "mps")
"""As nnU-Net's commands name them; `mps` is an Apple GPU."""


def default_device() -> str:
    """Return `cuda` if torch finds a GPU of that kind, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(device: str) -> None:
    """Check that torch can use a device here; else raise a RuntimeError."""
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(device.partition(":")[0], True):
        raise RuntimeError(
            f"the device {device} needs a GPU that torch can use, and there is none: use the "
            "device cpu, or install torch for your GPU"
        )
