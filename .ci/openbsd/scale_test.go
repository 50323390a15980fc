package openbsd

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/threatstopd/capture"
	"example.org/threatstopd/capture/capturetest"
	"example.org/threatstopd/pfioctl"
)

// room skips where pf's limit leaves none for n more entries in tables.
func (s *site) room(n int) {
	s.Helper()
	if limit := s.entryLimit(); limit < n+10000 {
		s.skip("the limit of table entries is %d: %d needs a line like `set limit table-entries %d`", limit, n, 5*n/2)
	}
}

// scale: a daemon with many entries. The case's line has the resident memory of each
// process.
func scale(s *site, n int) {
	s.room(n)
	list := many(n)
	s.serve(list)
	s.configure(s.collect("UPLOAD=all", "PFLOG_IF=pflog0")...)
	if _, code := s.run("ifconfig", "pflog0"); code != 0 {
		s.own("interface", "pflog0", "")
	}
	s.tables()
	began := time.Now()
	s.sync()
	took := time.Since(began)
	s.enforced(list)
	began = time.Now()
	s.sync()
	unchanged := time.Since(began)
	s.runDaemon(false)
	s.sync()
	s.enforced(list)
	memory := ""
	for _, name := range []string{"main", "fetch", "report"} {
		f := s.family("rss")[name]
		kib, err := strconv.Atoi(f[2])
		if err != nil {
			s.Fatal(err)
		}
		if most := 64<<10 + n/4; kib > most {
			s.Errorf("%s has %d KiB resident, more than %d", name, kib, most)
		}
		memory += fmt.Sprintf(" %s %d", name, kib>>10)
	}
	s.note("%d entries: sync %.1f s, unchanged %.1f s; MiB resident:%s", n, took.Seconds(), unchanged.Seconds(), memory)
	s.endDaemon(false)
}

// benchTable is a table of our own to measure on, and the file that pfctl loads.
type benchTable struct {
	*site
	pf   *pfioctl.PF
	name pfioctl.Table
	file string
}

func newBenchTable(s *site) *benchTable {
	s.Helper()
	b := &benchTable{site: s, name: pfioctl.Table{Name: block}, file: filepath.Join(s.dir, "entries")}
	s.own("table", block, "")
	s.must("pfctl", "-t", block, "-T", "replace")
	var err error
	if b.pf, err = pfioctl.Open(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { b.pf.Close() })
	return b
}

// timed is the median of a few runs; before makes each run's state.
func timed(runs int, before, f func()) time.Duration {
	var all []time.Duration
	for range runs {
		before()
		began := time.Now()
		f()
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (b *benchTable) array(list []string) *pfioctl.Addrs {
	b.Helper()
	a, err := pfioctl.NewAddrs(len(list))
	if err != nil {
		b.Fatal(err)
	}
	for _, text := range list {
		if err := a.Append(netip.PrefixFrom(netip.MustParseAddr(text), 32), false); err != nil {
			b.Fatal(err)
		}
	}
	return a
}

func (b *benchTable) set(a *pfioctl.Addrs) {
	b.Helper()
	if _, err := b.pf.SetAddrs(b.name, a); err != nil {
		b.Fatal(err)
	}
}

func (b *benchTable) clear() {
	b.Helper()
	if _, err := b.pf.Clear(b.name); err != nil {
		b.Fatal(err)
	}
}

func (b *benchTable) replace() {
	b.Helper()
	b.must("pfctl", "-q", "-t", block, "-T", "replace", "-f", b.file)
}

// setAddrs measures one SETADDRS against pfctl -T replace of the same entries.
func setAddrs(s *site) {
	const n = 26424
	s.room(n)
	b, list := newBenchTable(s), many(n)
	a := b.array(list)
	defer a.Close()
	s.write(b.file, strings.Join(list, "\n")+"\n")
	ours := timed(3, b.clear, func() { b.set(a) })
	s.same("the table after SETADDRS", list, s.inPF(block))
	theirs := timed(1, b.clear, b.replace)
	s.same("the table after pfctl -T replace", list, s.inPF(block))
	s.note("%d entries: SETADDRS %.3f s, pfctl -T replace %.3f s, ratio %.0f", n, ours.Seconds(), theirs.Seconds(), theirs.Seconds()/ours.Seconds())
}

// bench measures what an owner may ask for, and leaves a table for the script to print.
func bench(s *site) {
	b := newBenchTable(s)
	sizes := []int{26424, 120430, 1000000}
	rows := []string{"SETADDRS, empty table", "SETADDRS, unchanged", "SETADDRS, 1 % changed", "pfctl -T replace, empty table",
		"pfctl -T replace, unchanged", "threatstopd --dump-table", "pfctl -T show"}
	cells := make(map[string][]string)
	limit := s.entryLimit()
	for _, n := range sizes {
		if limit < n+n/100+10000 {
			for _, row := range rows {
				cells[row] = append(cells[row], "-")
			}
			continue
		}
		for i, took := range b.measure(n) {
			cells[rows[i]] = append(cells[rows[i]], fmt.Sprintf("%.3f s", took.Seconds()))
		}
	}
	var out bytes.Buffer
	version, _ := s.threatstopd("--version")
	fmt.Fprintf(&out, "%s\n%s", strings.SplitN(version, "\n", 2)[0], s.must("sysctl", "kern.version", "hw.model", "hw.ncpuonline", "hw.physmem"))
	fmt.Fprintf(&out, "%-32s%12d%12d%12d\n", "entries", sizes[0], sizes[1], sizes[2])
	for _, row := range rows {
		fmt.Fprintf(&out, "%-32s%12s%12s%12s\n", row, cells[row][0], cells[row][1], cells[row][2])
	}
	if strings.Contains(out.String(), " - ") || limit < sizes[2] {
		fmt.Fprintf(&out, "- pf's limit is %d: `set limit table-entries 2500000` makes room\n", limit)
	}
	read, tcpdump := b.text(100000)
	fmt.Fprintf(&out, "text of 100,000 logged packets: threatstopd --read %.2f s, tcpdump %.2f s\n", read.Seconds(), tcpdump.Seconds())
	s.write(filepath.Join(s.work, "table"), out.String())
}

// measure returns a time for each of bench's rows.
func (b *benchTable) measure(n int) []time.Duration {
	b.Helper()
	list := many(n + n/100)
	a, other := b.array(list[:n]), b.array(list[n/100:])
	defer a.Close()
	defer other.Close()
	b.write(b.file, strings.Join(list[:n], "\n")+"\n")
	b.write(b.conf, fmt.Sprintf("device_id=tdid_test\nDNS_SERVERS=192.0.2.53\nBLOCK_LISTS=b.test.example\nBLOCK_TABLE=%s\nUPLOAD=no\n", block))
	put := func(a *pfioctl.Addrs) func() { return func() { b.set(a) } }
	out := []time.Duration{
		timed(3, b.clear, put(a)),
		timed(3, put(a), put(a)),
		timed(3, put(a), put(other)),
		timed(1, b.clear, b.replace),
		timed(1, func() {}, b.replace),
	}
	var ours, theirs []byte
	out = append(out,
		timed(3, func() {}, func() {
			ours = b.quiet(filepath.Join(b.here, "bin/threatstopd"), "--dump-table", "block", "-f", b.conf)
		}),
		timed(3, func() {}, func() { theirs = b.quiet("pfctl", "-t", block, "-T", "show") }))
	if !bytes.Equal(ours, theirs) {
		b.Error("--dump-table is not what pfctl -T show prints")
	}
	b.clear()
	return out
}

// quiet returns what a program prints, which may be much, without logging it.
func (s *site) quiet(name string, args ...string) []byte {
	s.Helper()
	changing.Lock()
	defer changing.Unlock()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		s.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

// text measures how long n logged packets take to print; both must print the same.
func (s *site) text(n int) (read, tcpdump time.Duration) {
	s.Helper()
	name := filepath.Join(s.dir, "pflog")
	f, err := os.Create(name)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	w, err := capturetest.NewPcapWriter(f, 0, nil)
	if err != nil {
		s.Fatal(err)
	}
	from, began := netip.MustParseAddr("198.51.100.1"), time.Now().Add(-time.Hour)
	for i := range n {
		// tcpdump decodes the payload of UDP where it knows the port: none of these.
		p := &capturetest.Packet{Time: began.Add(time.Duration(i) * time.Millisecond), Action: capture.ActionBlock, Iface: "em0",
			Src: from, Dst: netip.MustParseAddr("192.0.2.2"), Proto: capturetest.TCP, SrcPort: uint16(40000 + i%10000), DstPort: 22, Seq: uint32(i)}
		if i%3 == 1 {
			p.Proto, p.DstPort = capturetest.UDP, 40123
		}
		if err := w.Write(p); err != nil {
			s.Fatal(err)
		}
	}
	var ours, theirs []byte
	read = timed(3, func() {}, func() { ours = s.quiet(filepath.Join(s.here, "bin/threatstopd"), "--read", name) })
	tcpdump = timed(3, func() {}, func() { theirs = s.quiet("tcpdump", "-n", "-e", "-S", "-r", name) })
	for i := range n {
		a, rest, _ := bytes.Cut(ours, []byte("\n"))
		b, more, _ := bytes.Cut(theirs, []byte("\n"))
		if ours, theirs = rest, more; !bytes.Equal(a, b) {
			s.Errorf("packet %d: --read prints\n%s\nand tcpdump\n%s", i, a, b)
			break
		}
	}
	return read, tcpdump
}
