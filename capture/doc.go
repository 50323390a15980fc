// Package capture reads what OpenBSD's pf(4) logs: packets behind a pflog header,
// live from bpf(4) on a pflog interface or from the files that pflogd(8) writes. It
// decodes the header and the packet and prints the line that OpenBSD's
// "tcpdump -n -e -S" prints for it.
//
// A [Reader] (live) and a [FileReader] (files) are gopacket.ZeroCopyPacketDataSources.
// Packets are decoded into one [Packet] again and again; nothing is allocated for a
// packet.
//
//	src, err := capture.Open(capture.Options{})
//	...
//	var (
//		p    capture.Packet
//		line []byte
//	)
//	for {
//		data, ci, err := src.ZeroCopyReadPacketData()
//		if err != nil {
//			return err
//		}
//		if p.Decode(data, ci) == nil && p.Header.Action == capture.ActionBlock {
//			line = p.AppendLine(line[:0], time.Local)
//			...
//		}
//	}
//
// Every length in a packet is untrusted: decoding is bounded by the bytes that were
// captured, and a packet cut anywhere yields what could still be read.
//
// The package runs on any system; only [Open] needs OpenBSD, 6.9 or later. Package
// capturetest has a pflog interface in memory, and package pfloglayer the header as a
// layer for programs that decode with gopacket.
package capture
