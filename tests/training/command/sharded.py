"""`python -m tests.training.command.sharded train ...`: the command under FSDP 2, on CPUs, too.

accelerate switches FSDP on for accelerators only; PyTorch shards on any device. With KILLED_AFTER=N
every process ends hard after the checkpoint of step N.
"""

import os
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from sso_data.cli import main
from sso_data.training.row_trainer import RowTrainer

SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What `accelerate launch` sets from examples/accelerate/fsdp.yaml."""

_begin = AcceleratorState.__init__
_save = RowTrainer._save_checkpoint


def _on_cpus(self: Any, *given: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _begin(self, *given, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def _killed(self: Any, *given: Any) -> None:
    _save(self, *given)
    self.accelerator.wait_for_everyone()
    if str(self.state.global_step) == os.environ.get("KILLED_AFTER"):
        os._exit(9)


if __name__ == "__main__":
    AcceleratorState.__init__ = _on_cpus
    RowTrainer._save_checkpoint = _killed  # type: ignore[assignment,method-assign]
    main()
