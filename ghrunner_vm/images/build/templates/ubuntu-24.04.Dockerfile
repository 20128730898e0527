# The machine that each job gets, on Ubuntu 24.04. `ghvm images build` makes a disk, a kernel and an initrd of it.
#
# It adds what is the same in every image: GitHub's runner, the user `runner` that jobs run as (with sudo, and Docker),
# ghvm's agent, the network, and the settings of a machine that lives for one job. Nothing of that belongs here.
FROM ubuntu:24.04

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
        libicu74 libkrb5-3 liblttng-ust1t64 libssl3t64 zlib1g \
    && rm -rf /var/lib/apt/lists/*

# The kernel for virtual machines, on every architecture. Its package only recommends a maker of initramfs archives, so
# none is installed and none is made: it would suit the host that builds, and ghvm brings its own.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        linux-image-virtual \
    && rm -rf /var/lib/apt/lists/*

# Docker, for container jobs, services and actions that are images. AppArmor's parser is needed wherever the kernel has
# AppArmor, as Ubuntu's does: without it no container starts.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        docker.io docker-buildx apparmor \
    && rm -rf /var/lib/apt/lists/*

# What jobs take for granted. Add what yours need: it is installed once here instead of in every job.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates curl git sudo tar xz-utils zstd gzip unzip jq procps \
    && rm -rf /var/lib/apt/lists/*

# Container images forbid packages to start their services. In a machine they may.
RUN rm -f /usr/sbin/policy-rc.d

# The environment and the directory of every job.
ENV LANG=C.UTF-8
