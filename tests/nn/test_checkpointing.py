import torch
from torch import nn

from nnunet_iac.nn.retrofitted_unet import checkpointed


def test_checkpointing_updates_running_statistics_once_and_gives_the_same_gradients():
    results = []
    for call in (lambda module, x: module(x), checkpointed):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        x = torch.randn(4, 2, 5, 5, requires_grad=True)
        call(module, x).square().sum().backward()
        norm = module[1]
        assert norm.track_running_stats
        state = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
        results.append([*state, x.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
