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

    # Only the one that is wanted: asking for CUDA in a process spoils it for forks of that.
    kind, found = device.partition(":")[0], True
    if kind == "cuda":
        found = torch.cuda.is_available()
    elif kind == "mps":
        found = torch.backends.mps.is_available()
    if not found:
        raise RuntimeError(
            f"the device {device} needs a GPU that torch can use, and there is none: use the "
            "device cpu, or install torch for your GPU"
        )
