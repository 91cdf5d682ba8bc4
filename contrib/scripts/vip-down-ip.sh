#!/bin/sh
# Called as: vip-down-ip.sh INTERFACE ADDRESS [PREFIXLEN]. That the address is not there is no fault:
# it is so at the start.
ip address del "$2/${3:-24}" dev "$1" 2>/dev/null
exit 0
