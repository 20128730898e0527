# The machine that each job gets, on Debian 12. `ghvm images build` makes a disk, a kernel and an initrd of it.
#
# It adds what is the same in every image: GitHub's runner, the user `runner` that jobs run as (with sudo, and Docker),
# ghvm's agent, the network, and the settings of a machine that lives for one job. Nothing of that belongs here.
FROM debian:12-slim

# The machine itself. --no-install-recommends keeps out what a machine without a screen and a keyboard never uses.
# DEBIAN_FRONTEND is set for the command alone: what ENV sets, every job would see.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        # what boots it and gives it a network
        systemd systemd-sysv udev dbus kmod iproute2 nftables iptables \
        # ghvm's initrd is made of this busybox, which needs no libraries
        busybox-static \
        # `ghvm ssh`; each machine makes its own host key
        openssh-server \
        # what GitHub's runner needs: see bin/installdependencies.sh in it
        libicu72 libkrb5-3 liblttng-ust1 libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/*

# The kernel. Its package wants a maker of initramfs archives to be there, but none is made: INITRD=No says so to
# /etc/kernel/postinst.d/initramfs-tools. One made here would suit the host that builds, and ghvm brings its own.
# dpkg tells the architecture, since Docker's older builder does not set TARGETARCH.
RUN apt-get update && INITRD=No DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        "linux-image-cloud-$(dpkg --print-architecture)" \
    && rm -rf /var/lib/apt/lists/*

# Docker, for container jobs, services and actions that are images. AppArmor's parser is needed wherever the kernel has
# AppArmor, as Debian's does: without it no container starts.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        docker.io apparmor \
    && rm -rf /var/lib/apt/lists/*

# What jobs take for granted. Add what yours need: it is installed once here instead of in every job.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates curl git sudo tar xz-utils zstd gzip unzip jq procps \
    && rm -rf /var/lib/apt/lists/*

# Container images forbid packages to start their services. In a machine they may.
RUN rm -f /usr/sbin/policy-rc.d

# The environment and the directory of every job.
ENV LANG=C.UTF-8
