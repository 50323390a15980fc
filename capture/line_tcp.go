package capture

const tcpHeaderLen = 20

// TCP flags.
const tcpFIN, tcpSYN, tcpRST, tcpPSH, tcpACK, tcpURG, tcpECE, tcpCWR = 1, 2, 4, 8, 16, 32, 64, 128

// tcp prints a TCP header (print-tcp.c) behind the IP header ip.
func (l *line) tcp(b []byte, length uint32, ip []byte) {
	if length < tcpHeaderLen {
		l.put("truncated-tcp ", length)
		return
	}
	if len(b) < 4 {
		l.pair(ip)
		l.put("[|tcp]")
		return
	}
	if ip[0]>>4 == 6 && ip[6] != protoTCP {
		// Behind extension headers: the addresses stand before those.
		l.put(u16(b, 0), " > ", u16(b, 2), ": ")
	} else {
		l.ports(b, ip)
	}
	if len(b) < tcpHeaderLen {
		if len(b) >= 8 && len(b) < 12 {
			l.put(u32(b, 4), " ")
		}
		l.put("[|tcp]")
		return
	}
	seq, ack := u32(b, 4), u32(b, 8)
	hlen := uint32(b[12]>>4) * 4
	flags := b[13]

	if flags&(tcpSYN|tcpFIN|tcpRST|tcpPSH|tcpCWR|tcpECE) == 0 {
		l.put(".")
	}
	for i, bit := range [...]byte{tcpSYN, tcpFIN, tcpRST, tcpPSH, tcpCWR, tcpECE} {
		if flags&bit != 0 {
			l.put("SFRPWE"[i : i+1])
		}
	}
	if hlen > length {
		l.put(" [bad hdr length]")
		return
	}
	length -= hlen
	if length > 0 || flags&(tcpSYN|tcpFIN|tcpRST) != 0 {
		l.put(" ", seq, ":", seq+length, "(", length, ")")
	}
	if flags&tcpACK != 0 {
		l.put(" ack ", ack)
	}
	l.put(" win ", u16(b, 14))
	if flags&tcpURG != 0 {
		l.put(" urg ", u16(b, 18))
	}
	if hlen > tcpHeaderLen {
		l.put(" <")
		l.tcpOptions(b[tcpHeaderLen:], int(hlen-tcpHeaderLen), flags)
		l.put(">")
	}
}

// tcpOptionForms holds the names of options and the sizes of the numbers in them, for those
// that are printed so.
var tcpOptionForms = [...]struct {
	name  string
	sizes []int
}{
	2:  {"mss", []int{2}},
	3:  {"wscale", []int{1}},
	4:  {"sackOK", nil},
	6:  {"echo", []int{4}},
	7:  {"echoreply", []int{4}},
	8:  {"timestamp", []int{4, 4}},
	11: {"cc", []int{4}},
	12: {"ccnew", []int{4}},
	13: {"ccecho", []int{4}},
}

// tcpOptions prints the left bytes of options at b, up to the first that is bad or was
// not captured.
func (l *line) tcpOptions(b []byte, left int, flags byte) {
	for first := true; left > 0; first = false {
		if !first {
			l.put(",")
		}
		switch {
		case len(b) >= 1 && b[0] == 0:
			l.put("eol")
			return
		case len(b) >= 1 && b[0] == 1:
			l.put("nop")
			b, left = b[1:], left-1
			continue
		case len(b) < 2:
			l.put("[|tcp]")
			return
		}
		// tcpdump counts the kind as still left here.
		opt, size := b[0], b[1]
		if size < 2 || int(size) > left {
			l.put("[bad opt]")
			return
		}
		b, left = b[2:], left-2
		n := l.tcpOption(opt, size, b, left, flags)
		switch {
		case n > left:
			l.put("[bad opt]")
			return
		case n > len(b):
			l.put("[|tcp]")
			return
		}
		b, left = b[n:], left-n
		if n+2 != int(size) {
			l.put("[len ", size, "]")
		}
	}
}

// tcpOption prints one option, whose length field is size and whose data begins b, as far
// as that has left bytes and was captured. It returns how many bytes of data the option
// has by its kind, or where the first number ends that could not be printed.
func (l *line) tcpOption(opt, size byte, b []byte, left int, flags byte) (n int) {
	if int(opt) < len(tcpOptionForms) && tcpOptionForms[opt].name != "" {
		l.put(tcpOptionForms[opt].name)
		for _, k := range tcpOptionForms[opt].sizes {
			if n += k; n > min(left, len(b)) {
				return n
			}
			l.put(" ", u32(b, n-k)>>(32-8*k))
		}
		if opt == 4 && size != 2 {
			l.put("[len ", size, "]") // tcpdump prints it twice
		}
		return n
	}
	n = int(size) - 2
	switch {
	case opt == 5 && (n%8 != 0 || flags&tcpACK == 0):
		l.put("malformed sack [len ", size-2, "] ")
	case opt == 5:
		l.put("sack ", (size-2)/8, " ")
		for i := 0; i+8 <= min(n, len(b)); i += 8 {
			l.put("{", u32(b, i), ":", u32(b, i+4), "} ")
		}
	default:
		if opt == 19 {
			l.put("tcpmd5:")
		} else {
			l.put("opt-", opt, ":")
		}
		for _, c := range b[:min(n, len(b))] {
			l.put(hexa{uint32(c), 2})
		}
	}
	return n
}
