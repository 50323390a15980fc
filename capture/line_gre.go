package capture

// Flags of a GRE header (RFC 1701, RFC 2637).
const (
	greChecksum    = 0x8000
	greRouting     = 0x4000
	greKey         = 0x2000
	greSequence    = 0x1000
	greStrictRoute = 0x0800
	greAck         = 0x0080
	greVersion     = 0x0007
)

// gre prints a GRE header and the IP or MPLS packet in it (print-gre.c). Of
// Ethernet, PPP and the like only the name is printed.
func (l *line) gre(b []byte, length uint32) {
	if len(b) < 2 {
		l.str("[|gre]")
		return
	}
	switch v := u16(b, 0) & greVersion; v {
	case 0:
		l.gre0(b, length)
	case 1:
		l.gre1(b, length)
	default:
		l.str("gre-unknown-version=")
		l.uint(uint32(v))
	}
}

func (l *line) gre0(b []byte, length uint32) {
	const cut = "[|gre]"
	l.str("gre")
	flags := u16(b, 0)
	total := len(b)
	// next takes n bytes off the front, nil when they were not captured.
	next := func(n int) []byte {
		if len(b) < n {
			return nil
		}
		field := b[:n]
		b = b[n:]
		return field
	}
	head := next(4)
	if head == nil {
		l.str(cut)
		return
	}
	proto := u16(head, 2)
	if flags&(greChecksum|greRouting) != 0 {
		f := next(4)
		if f == nil {
			l.str(cut)
			return
		}
		if flags&greRouting != 0 {
			l.str(" off 0x")
			l.hex(uint32(u16(f, 2)), 0)
		}
	}
	if flags&greKey != 0 {
		f := next(4)
		if f == nil {
			l.str(cut)
			return
		}
		// A key may be a virtual subnet and a flow (NVGRE).
		key := u32(f, 0)
		l.str(" key=")
		l.uint(key)
		l.byte('|')
		l.uint(key >> 8)
		l.byte('+')
		l.hex(key&0xff, 2)
	}
	if flags&greSequence != 0 {
		f := next(4)
		if f == nil {
			l.str(cut)
			return
		}
		l.str(" seq ")
		l.uint(u32(f, 0))
	}
	if flags&greRouting != 0 {
		for {
			f := next(4)
			if f == nil || l.full() {
				l.str(cut)
				return
			}
			af, off, n := u16(f, 0), int(f[2]), int(f[3])
			if af == 0 && n == 0 {
				break
			}
			l.greRoute(af, off, n, b)
			if next(n) == nil {
				l.str(cut)
				return
			}
		}
	}
	l.byte(' ')
	length -= uint32(total - len(b))
	switch proto {
	case 0:
		l.str("keep-alive")
	case 0x883e:
		l.str("wccp ")
		if len(b) == 0 {
			return
		}
		if b[0]>>4 != 4 {
			f := next(4)
			if f == nil {
				l.str("[|wccp]")
				return
			}
			l.str("D:")
			l.byte('0' + f[0]>>7)
			l.str(" A:")
			l.byte('0' + f[0]>>6&1)
			l.str(" SId:")
			l.uint(uint32(f[1]))
			l.str(" Alt:")
			l.uint(uint32(f[2]))
			l.str(" Pri:")
			l.uint(uint32(f[3]))
			l.str(": ")
		}
		l.nested4(b, length)
	case 0x0800:
		l.nested4(b, length)
	case 0x86dd:
		l.nested6(b, length)
	case 0x8847, 0x8848:
		l.mpls(b, length)
	case 0x88be:
		l.str("erspan")
	case 0x6558, 0x894f, 0x2000, 0x2001:
		// Transparent Ethernet, NSH, CDP, NHRP.
	default:
		l.str("unknown-proto-")
		l.hex(uint32(proto), 4)
	}
}

// greRoute prints one source route entry of n bytes at b.
func (l *line) greRoute(af uint16, off, n int, b []byte) {
	var size int
	switch af {
	case 0x0800:
		l.str(" (rtaf=ip")
		size = 4
	case 0xfffe:
		l.str(" (rtaf=asn")
		size = 2
	default:
		l.str(" (rtaf=0x")
		l.hex(uint32(af), 0)
		l.byte(')')
		return
	}
	switch {
	case off&(size-1) != 0:
		l.str(" badoffset=")
		l.uint(uint32(off))
	case n&(size-1) != 0:
		l.str(" badlength=")
		l.uint(uint32(n))
	case off >= n:
		l.str(" badoff/len=")
		l.uint(uint32(off))
		l.byte('/')
		l.uint(uint32(n))
	default:
		for i := 0; i < n && i+size <= len(b) && !l.full(); i += size {
			l.byte(' ')
			if i == off {
				l.byte('*')
			}
			if size == 4 {
				l.addr4(b, i)
			} else {
				l.hex(uint32(u16(b, i)), 0)
			}
		}
	}
	l.byte(')')
}

func (l *line) gre1(b []byte, length uint32) {
	if len(b) < 4 {
		l.str("[|gre1]")
		return
	}
	flags, proto := u16(b, 0), u16(b, 2)
	b, length = b[4:], length-4
	switch proto {
	case 0x880b:
		if !l.pptp(b, flags, length) {
			l.str("[|pptp]")
		}
	case 0x6400:
		l.eoip(b, flags, length)
	default:
		l.str("unknown-gre1-proto-")
		l.hex(uint32(proto), 4)
	}
}

// pptp prints an enhanced GRE header up to the PPP frame in it, and reports false
// when the capture ends before that.
func (l *line) pptp(b []byte, flags uint16, length uint32) bool {
	l.str("pptp")
	switch {
	case flags&greChecksum != 0:
		l.str(" cpset!")
		return true
	case flags&greRouting != 0:
		l.str(" rpset!")
		return true
	case flags&greKey == 0:
		l.str(" kpunset!")
		return true
	case flags&greStrictRoute != 0:
		l.str(" spset!")
		return true
	}
	if len(b) < 4 {
		return false
	}
	size := uint32(u16(b, 0))
	l.str(" callid ")
	l.uint(uint32(u16(b, 2)))
	b, length = b[4:], length-4
	for _, f := range [...]struct {
		bit  uint16
		name string
	}{{greSequence, " seq "}, {greAck, " ack "}} {
		if flags&f.bit == 0 {
			continue
		}
		if len(b) < 4 {
			return false
		}
		l.str(f.name)
		l.uint(u32(b, 0))
		b, length = b[4:], length-4
	}
	if flags&greSequence == 0 {
		return true
	}
	if length < size {
		l.str(" truncated-pptp - ")
		l.int(size - length)
		l.str(" bytes missing!")
	}
	l.str(": ")
	return true
}

// eoip prints MikroTik's Ethernet over IP up to the frame.
func (l *line) eoip(b []byte, flags uint16, length uint32) {
	l.str("eoip")
	if flags &^= greVersion; flags != greKey {
		l.str(" unknown-eoip-flags-")
		l.hex(uint32(flags), 4)
		l.byte('!')
		return
	}
	if len(b) < 4 {
		l.str("[|eoip]")
		return
	}
	size := uint32(u16(b, 0))
	l.byte(' ')
	l.uint(uint32(b[2]) | uint32(b[3])<<8)
	length -= 4
	if length < size {
		l.str(" truncated-eoip - ")
		l.int(size - length)
		l.str(" bytes missing!")
		size = length
	}
	l.str(": ")
	if size == 0 {
		l.str("keepalive")
	}
}

// mpls prints a label stack and the IP packet below it (print-mpls.c).
func (l *line) mpls(b []byte, length uint32) {
	const cut = "[|mpls]"
	var label uint32
	for bottom := false; !bottom; {
		if len(b) < 4 || l.full() {
			l.str(cut)
			return
		}
		tag := u32(b, 0)
		b, length = b[4:], length-4
		label = tag >> 12
		bottom = tag>>8&1 != 0
		l.str("MPLS(label ")
		l.uint(label)
		l.str(", exp ")
		l.uint(tag >> 9 & 7)
		l.str(", ttl ")
		l.uint(tag & 0xff)
		l.str(") ")
	}
	if length >= 4 && at(b, 0)>>4 == 0 {
		// A pseudowire control word. tcpdump adds its length where it
		// should take it off.
		word := u32(b, 0)
		b, length = from(b, 4), length+4
		l.str("CW(frag ")
		l.uint(word >> 16 & 0x30)
		l.str(", sequence ")
		l.uint(word & 0xffff)
		l.str(") ")
	}
	switch {
	case label == 0:
		l.nested4(b, length)
	case label == 1:
		l.str("Route-Alert")
	case label == 2:
		l.nested6(b, length)
	case label == 3:
		l.str("Implicit-NULL")
	case label < 16 || length == 0:
	case len(b) == 0:
		l.str(cut)
	case b[0]>>4 == 4:
		l.nested4(b, length)
	case b[0]>>4 == 6:
		l.nested6(b, length)
	}
}
