// Package capture reads what OpenBSD's pf(4) logs: packets with a pflog header
// in front, live from bpf(4) on a pflog interface or from the files that
// pflogd(8) writes. It decodes the header and the packet behind it and prints
// the line that OpenBSD's "tcpdump -n -e" prints for it.
//
// A [Reader] (live) and a [FileReader] (files) give [Record] values: a time
// and the bytes that were captured. [Packet.Decode] reads the pflog header, the
// addresses, the protocol and the ports out of one; [Printer.AppendLine] turns
// it into text. Records, packets and printers are made once and used again:
// nothing is allocated for a packet.
//
//	r, err := capture.Open(capture.Options{})
//	...
//	var (
//		rec capture.Record
//		p   capture.Packet
//		out capture.Printer
//		buf []byte
//	)
//	for {
//		batch, err := r.Read()
//		if err != nil {
//			return err
//		}
//		for batch.Next(&rec) {
//			if p.Decode(rec) == nil && p.Header.Action == capture.ActionBlock {
//				buf = append(out.AppendLine(buf[:0], &p), '\n')
//				...
//			}
//		}
//	}
//
// Every length in a record is foreign: all decoding is bounded by the bytes that
// were captured, and a record cut anywhere yields what could still be read.
//
// The package runs on any system; only opening the device needs OpenBSD, 6.9 or
// later. [Source] is the live side as an interface, and package capturetest has
// a second implementation of it.
package capture
