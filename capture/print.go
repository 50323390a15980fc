package capture

import (
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// Print writes a line for every record of f to w and returns how many there were.
// What is at hand is written before more is waited for. The error is nil at the
// end of the file, else what ended reading (see [FileReader.Next]; the lines before
// it are written) or writing. Lines are made by as many goroutines as may run at
// once (GOMAXPROCS), in memory that is bounded; none of f, pr and w is used by two of
// them at the same time, nor after Print has returned.
func Print(w io.Writer, f *FileReader, pr *Printer) (lines int, err error) {
	if workers := runtime.GOMAXPROCS(0); workers > 1 {
		return printAhead(w, f, pr, workers)
	}
	return printInTurn(w, f, pr)
}

// printInTurn is Print on one processor.
func printInTurn(w io.Writer, f *FileReader, pr *Printer) (lines int, err error) {
	const flushAt = 64 << 10
	var (
		p   Packet
		out = make([]byte, 0, flushAt+maxLine+1)
	)
	for {
		if len(out) > 0 && (len(out) >= flushAt || !f.buffered()) {
			if _, err := w.Write(out); err != nil {
				return lines, err
			}
			out = out[:0]
		}
		// The record is all that a line needs.
		if err := f.Next(&p.Record); err != nil {
			if err == io.EOF {
				return lines, nil
			}
			return lines, err
		}
		out = append(pr.AppendLine(out, &p), '\n')
		lines++
	}
}

// A stretch is records of a file that were read together, on their way to become
// lines.
type stretch struct {
	in         []byte
	start, end int       // of the records in in
	related    []related // what Printer.relate returns for them, in order
	out        []byte
}

// ahead is Print on several processors. Each worker reads a stretch of the file,
// while no other reads, makes its lines, while others read and make theirs, and
// writes them when it is its turn.
type ahead struct {
	w io.Writer

	reading sync.Mutex // held by who reads, from when its turn is fixed
	f       *FileReader
	pr      *Printer // follows the conversations
	turns   int      // given out
	lines   int
	readErr error

	writing  sync.Mutex
	written  *sync.Cond // turn has changed
	turn     int        // whose it is
	writeErr error
	failed   atomic.Bool // writeErr is set
}

func printAhead(w io.Writer, f *FileReader, pr *Printer, workers int) (lines int, err error) {
	a := &ahead{w: w, f: f, pr: pr}
	a.written = sync.NewCond(&a.writing)
	var others sync.WaitGroup
	for range workers - 1 {
		others.Go(a.work)
	}
	a.work()
	others.Wait()
	switch {
	case a.writeErr != nil:
		return a.lines, a.writeErr
	case a.readErr != io.EOF:
		return a.lines, a.readErr
	}
	return a.lines, nil
}

// work is one worker: it ends with the file or when writing has failed.
func (a *ahead) work() {
	var s stretch
	own := Printer{Location: a.pr.Location, Relative: a.pr.Relative}
	for {
		a.reading.Lock()
		if a.readErr != nil || a.failed.Load() {
			a.reading.Unlock()
			return
		}
		turn := a.turns
		a.turns++
		n, err := s.read(a.f, a.pr)
		a.lines += n
		a.readErr = err
		a.reading.Unlock()

		s.print(&own, a.f.swapped, a.f.nano)

		a.writing.Lock()
		for a.turn != turn {
			a.written.Wait()
		}
		if n > 0 && a.writeErr == nil {
			if _, a.writeErr = a.w.Write(s.out); a.writeErr != nil {
				a.failed.Store(true)
			}
		}
		a.turn++
		a.written.Broadcast()
		a.writing.Unlock()
	}
}

// read waits for the next record of the file, and takes it and all that are at hand
// behind it into the stretch, which gives its old buffer for theirs. It returns how
// many there are, and the error that came behind them.
func (s *stretch) read(f *FileReader, pr *Printer) (n int, err error) {
	var rec Record
	s.start, s.end = 0, 0
	if err := f.Next(&rec); err != nil {
		return 0, err
	}
	s.start = f.start - len(rec.Data) - pcapRecordHeaderLen
	s.related = s.related[:0]
	for {
		n++
		if pr.Relative {
			s.related, s.out = pr.follow(s.related, &rec, s.out)
		}
		if !f.buffered() {
			break
		}
		if err = f.Next(&rec); err != nil {
			break
		}
	}
	s.end = f.start
	rest := f.buf[f.start:f.end]
	if len(s.in) < len(f.buf) {
		s.in = make([]byte, len(f.buf))
		s.out = make([]byte, 0, len(f.buf))
	}
	s.in, f.buf = f.buf, s.in
	f.start, f.end = 0, copy(f.buf, rest)
	return n, err
}

// print makes the stretch's lines.
func (s *stretch) print(pr *Printer, swapped, nano bool) {
	f := FileReader{buf: s.in, start: s.start, end: s.end, swapped: swapped, nano: nano, err: io.EOF}
	pr.known = s.related
	var p Packet
	s.out = s.out[:0]
	for f.Next(&p.Record) == nil {
		s.out = append(pr.AppendLine(s.out, &p), '\n')
	}
}

// follow follows the conversations of a record as AppendLine would, and appends to rs
// what relate returned for it. It may use scratch, which it returns.
func (pr *Printer) follow(rs []related, r *Record, scratch []byte) ([]related, []byte) {
	tcp, ip, certain := ordinary(r)
	if !certain {
		// Where segments are in there, and how many, is only found by making
		// the line.
		pr.note, pr.noted = true, rs
		scratch = pr.AppendLine(scratch[:0], &Packet{Record: *r})
		rs = pr.noted
		pr.note, pr.noted = false, nil
		return rs, scratch
	}
	if tcp != nil && tcp[13]&tcpACK != 0 {
		seq, ack := binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
		rs = append(rs, pr.converse(tcp, ip, seq, ack, tcp[13]&tcpSYN != 0))
	}
	return rs, scratch
}

// ordinary tells of a record what segment its line relates, if it has one, nil if
// not; that is certain only of packets that are as nearly all are.
func ordinary(r *Record) (tcp, ip []byte, certain bool) {
	d := r.Data
	if len(d) < HeaderLen+ipv4HeaderLen || d[offLength] != HeaderLen {
		return nil, nil, false
	}
	ip = d[HeaderLen:]
	length := r.Length - HeaderLen
	switch {
	case d[offAF] == AFInet && ip[0] == 0x45:
		size := int(binary.BigEndian.Uint16(ip[2:]))
		if size < ipv4HeaderLen || size > length || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
			return nil, nil, false
		}
		switch ip[9] {
		case protoUDP, protoICMP:
			return nil, nil, true
		case protoTCP:
			if size < ipv4HeaderLen+tcpHeaderLen || len(ip) < ipv4HeaderLen+tcpHeaderLen {
				return nil, nil, false
			}
			return ip[ipv4HeaderLen:], ip, true
		}
	case d[offAF] == AFInet6 && ip[0]>>4 == 6 && len(ip) >= ipv6HeaderLen:
		size := int(binary.BigEndian.Uint16(ip[4:]))
		if size > length-ipv6HeaderLen {
			return nil, nil, false
		}
		switch ip[6] {
		case protoUDP, protoICMPv6:
			return nil, nil, true
		case protoTCP:
			if size < tcpHeaderLen || len(ip) < ipv6HeaderLen+tcpHeaderLen {
				return nil, nil, false
			}
			return ip[ipv6HeaderLen:], ip, true
		}
	}
	return nil, nil, false
}
