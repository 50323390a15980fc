package pfioctl

import (
	"testing"

	"example.org/threatstopd/pfioctl/internal/abi/measured"
)

func TestConstants(t *testing.T) {
	vec := measured.Read()
	for set, names := range map[string]map[string]int{
		"log_flags": {
			"PF_LOG": int(LogFirst), "PF_LOG_ALL": int(LogAll), "PF_LOG_USER": int(logUser), "PF_LOG_MATCHES": int(LogMatches),
		},
		"direction": {"PF_INOUT": int(DirBoth), "PF_IN": int(DirIn), "PF_OUT": int(DirOut)},
		"action":    {"PF_PASS": int(ActionPass), "PF_DROP": int(ActionBlock), "PF_MATCH": int(ActionMatch)},
		"counter_index": {
			"PFR_DIR_MAX": len(AddrStats{}.Packets), "PFR_OP_ADDR_MAX": len(AddrStats{}.Packets[0]), "PFR_OP_TABLE_MAX": len(TableStats{}.Packets[0]),
		},
		"addr_type": {
			"PF_ADDR_ADDRMASK": int(AddrMask), "PF_ADDR_NOROUTE": int(AddrNoRoute), "PF_ADDR_DYNIFTL": int(AddrDynamic),
			"PF_ADDR_TABLE": int(AddrTable), "PF_ADDR_RTLABEL": int(AddrRouteLabel), "PF_ADDR_URPFFAILED": int(AddrURPFFailed),
			"PF_ADDR_RANGE": int(AddrRange), "PF_ADDR_NONE": int(AddrNone),
		},
	} {
		for name, got := range names {
			if want, ok := vec.Const[set][name]; !ok || got != want {
				t.Errorf("%s = %d, want %d", name, got, want)
			}
		}
	}
}
