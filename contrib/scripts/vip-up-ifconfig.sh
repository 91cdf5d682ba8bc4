#!/bin/sh
# Called as: vip-up-ifconfig.sh INTERFACE ADDRESS [LABEL]; the address goes to INTERFACE:LABEL, LABEL
# being ucarp's --xparam, 1 if none.
exec ifconfig "$1:${3:-1}" "$2" netmask 255.255.255.0
