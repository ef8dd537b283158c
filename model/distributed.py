"""Where a process computes, and what the processes of one training tell each other."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Place:
    """Where this process computes."""

    device: torch.device
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_process(cls) -> "Place":
        """This process among those that torchrun started; on its own without it."""
        cuda = torch.cuda.is_available()
        if "WORLD_SIZE" not in os.environ:
            return cls(torch.device("cuda" if cuda else "cpu"))
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo")
        return cls(device, dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        if self.ranks > 1:
            dist.destroy_process_group()

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.ranks == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def of_rank_0(self, value: Any) -> Any:
        """What rank 0 gave."""
        if self.ranks == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0)
        return shared[0]
