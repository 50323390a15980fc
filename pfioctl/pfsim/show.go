package pfsim

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"

	"example.org/threatstopd/pfioctl"
)

// WriteShow writes what "pfctl -t table -T show" prints, and with verbose what
// it prints with -v. Times are local, as pfctl's are. The error is ESRCH when
// there is no such table, or that of w.
func (k *Kernel) WriteShow(w io.Writer, table pfioctl.Table, verbose bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.findTable(table.Anchor, table.Name)
	if t == nil || t.flags&flagActive == 0 {
		return fmt.Errorf("pf table %s: %w", table, syscall.ESRCH)
	}
	out := bufio.NewWriter(w)
	var line []byte
	for s := range spot(t.cnt()) {
		line = append(line[:0], "   "...)
		if t.entryFlags(s)&entNot != 0 {
			line[2] = '!'
		}
		p := t.prefixAt(s)
		line = p.appendText(line)
		if p.net < p.maxBits() {
			line = fmt.Appendf(line, "/%d", p.net)
		}
		line = append(line, '\n')
		out.Write(line)
		if !verbose {
			continue
		}
		fmt.Fprintf(out, "\tCleared:     %s\n", time.Unix(t.tzeroAt(s), 0).Format(time.ANSIC))
		x := t.extraAt(s)
		if x == nil || x.counters == nil {
			continue
		}
		for dir, way := range []string{"In", "Out"} {
			for op, what := range []string{"Block", "Match", "Pass"} {
				fmt.Fprintf(out, "\t%-12s [ Packets: %-18d Bytes: %-18d ]\n", way+"/"+what+":",
					x.counters.packets[dir][op], x.counters.bytes[dir][op])
			}
		}
	}
	return out.Flush()
}

// appendText appends the address as inet_ntop(3) has it. It differs from
// netip's for IPv6 addresses with 96 zeros in front, which are shown with the
// rest as an IPv4 address, unless 16 more follow.
func (p prefix) appendText(b []byte) []byte {
	if p.af == afInet {
		var a [4]byte
		p.putAddress(a[:])
		return netip.AddrFrom4(a).AppendTo(b)
	}
	if p.hi == 0 && p.lo>>32 == 0 && p.lo>>16 != 0 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(p.lo))
		return netip.AddrFrom4(a).AppendTo(append(b, "::"...))
	}
	var a [16]byte
	p.putAddress(a[:])
	return netip.AddrFrom16(a).AppendTo(b)
}
