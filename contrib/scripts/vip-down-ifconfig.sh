#!/bin/sh
# Called as: vip-down-ifconfig.sh INTERFACE ADDRESS [LABEL]. That the address is not there is no
# fault: it is so at the start.
ifconfig "$1:${3:-1}" down 2>/dev/null
exit 0
