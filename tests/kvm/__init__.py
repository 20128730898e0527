"""Tests on real KVM, in an emulated host: QEMU's TCG emulates AMD SVM, so no host needs to have KVM for them."""
