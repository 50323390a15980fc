// Package capturetest plays the other side of package capture: pf(4), pflog(4),
// bpf(4) and pflogd(8). It turns descriptions of packets and of what pf did with
// them into pflog records ([Packet]), those into what read(2) on /dev/bpf returns
// ([AppendBPF]) and into files as pflogd writes them ([PcapWriter]), and has a pflog
// interface in memory ([Interface]) whose readers are capture.Sources with the
// kernel's two buffers, its filter, its counters and its ends.
//
// It does not use package testing: demonstrations can use it too.
package capturetest
