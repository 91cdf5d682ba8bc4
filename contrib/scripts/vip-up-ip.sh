#!/bin/sh
# Called as: vip-up-ip.sh INTERFACE ADDRESS [PREFIXLEN]; PREFIXLEN is ucarp's --xparam, 24 if none.
exec ip address replace "$2/${3:-24}" dev "$1"
