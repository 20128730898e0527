"""What jobs do that mean no good: shell text for a guest in which jobs run as root."""

from tests.world import PUBLIC

TRY = r"""
try() { echo "$1: $(timeout 20 wget -q -O - "http://$1/" 2>/dev/null || echo no)"; }
"""
"""Defines `try ADDRESS`, which says what answers there."""

ADDRESS_GAMES = rf"""
ip addr add 10.0.2.99/24 dev eth0
ip route change default via 10.0.2.2 src 10.0.2.99
echo "spoofed: $(timeout 5 wget -q -O - http://{PUBLIC}/ 2>/dev/null || echo no)"
ip addr del 10.0.2.99/24 dev eth0
ip addr flush dev eth0
printf '#!/bin/sh\n[ "$1" != bound ] || echo "lease: $ip $router $dns $mtu" >/tmp/lease\n' >/tmp/bound
chmod +x /tmp/bound
udhcpc -i eth0 -n -q -s /tmp/bound 2>/dev/null >/dev/null
cat /tmp/lease
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
ping -6 -c 1 -w 2 -I eth0 ff02::1 >/dev/null 2>&1 && echo "six: yes" || echo "six: no"
"""
"""The address of another, a lease by DHCP for who has one already, and IPv6."""

ADDRESS_GAMES_LOST = {"spoofed": "no", "lease": "10.0.2.15 10.0.2.2 10.0.2.3 1500", "six": "no"}
"""What they come to behind a wall."""

TAKE_THE_CHANNEL = """
killall -9 agent
for port in /sys/class/virtio-ports/*; do
    [ "$(cat $port/name)" != org.ghvm.agent.0 ] || channel=/dev/${port##*/}
done
until (: >$channel) 2>/dev/null; do sleep 0.1; done
exec 3>$channel
"""
"""From now on the job speaks for the agent, at descriptor 3."""

LEAVE_AT_THE_END = """
setsid sh -c 'while killall -0 Runner.Listener; do sleep 0.1; done; poweroff -f' >/dev/null 2>&1 &
"""
"""Does what the agent would have done."""

CLAIMS = r"""
say() { printf '%s\n' "$1" >&3; }
say '{"type":"started"}'
say '{"type":"ready","agent":1}'
for n in 1 2 3 4 5 6 7 8 9 10; do printf '\000\377\376\033[2J{{\n\n' >&3; done
say '{"type":"refused","why":"I never had a job"}'
say '{"type":"job-finished","result":"Failed"}'
say '{"type":"exited","code":0}'
say '{"type":"exited","code":7}'
say '{"type":"job-started"}'
say '{"type":"ready","agent":1}'
printf '{"type":"exi' >&3
"""

FLOOD_THE_CHANNEL = "yes | tr -d '\\n' | head -c 200000 >&3"
"""A line without end."""

FLOOD_THE_CONSOLE = """
setsid cat /dev/urandom >/dev/ttyS0 2>/dev/null &
"""
"""As long as the guest lives."""

FLOOD_THE_CONSOLE_A_LITTLE = "head -c 20000 /dev/urandom >/dev/ttyS0"
"""Where each byte costs so much that the guest would do nothing else."""


def answers(log: list[str]) -> dict[str, str]:
    """What was said of each thing that was tried, from a job's log."""
    said = [line.partition(": ") for line in log]
    return {what: answer for what, colon, answer in said if colon}
