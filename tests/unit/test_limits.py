"""How much one machine may take."""

from dataclasses import replace

import pytest

from ghrunner_vm.vm.base import Accelerator, VmDescription
from ghrunner_vm.vm.limits import Limits, limits, overhead

MIB, GIB = 1 << 20, 1 << 30
VM = VmDescription(
    name="a",
    arch="x86_64",
    accelerator="kvm",
    cores=4,
    ram=8 * GIB,
    base_disk=3,
    overlay=4,
    boot=None,
    network=None,
)


@pytest.mark.parametrize(
    ("ram", "accelerator", "mib"),
    [(8 * GIB, "kvm", 192), (8 * GIB, "tcg", 448), (256 * MIB, "kvm", 136), (GIB + 1, "kvm", 144)],
)
def test_what_a_vmm_takes_itself(ram: int, accelerator: Accelerator, mib: int) -> None:
    assert overhead(ram, accelerator) == mib * MIB


def test_a_machines_limits() -> None:
    assert limits(VM, 16 * GIB) == Limits(memory=8 * GIB + 192 * MIB, threads=164, file=19 * GIB)


def test_an_emulated_machine_may_keep_translated_code() -> None:
    assert limits(replace(VM, accelerator="tcg"), GIB).memory == 8 * GIB + 448 * MIB


def test_there_is_room_for_all_that_qcow2_may_write() -> None:
    # Per 64 KiB of the disk 8 bytes of tables and 2 of counts, in whole clusters, and the first ones.
    for disk in (1, MIB, GIB, 1 << 40):
        clusters = -(-disk // 65536)
        assert limits(VM, disk).file > clusters * (65536 + 8 + 2) + 16 * 65536


def test_threads_are_counted_by_user_so_only_an_id_of_its_own_has_that_limit() -> None:
    most = Limits(memory=1, threads=2, file=3)
    assert most.of_process(own_uid=True) == {"CORE": 0, "NOFILE": 4096, "FSIZE": 3, "NPROC": 2}
    assert "NPROC" not in most.of_process(own_uid=False)
