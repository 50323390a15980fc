// Package capturetest simulates the other side of package capture: pf(4), pflog(4), bpf(4)
// and pflogd(8). It turns descriptions of packets and of what pf did with them into pflog
// records ([Packet]) and those into files as pflogd writes them ([PcapWriter]). It has a
// pflog interface in memory ([Interface]) whose readers are capture.Sources with the
// kernel's two buffers, filter and counters.
//
// It does not use package testing, so that demonstrations can use it too.
package capturetest
