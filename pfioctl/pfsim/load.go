package pfsim

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// A Ruleset is what a pf.conf says.
type Ruleset struct {
	Rules []Rule

	// Anchors are the rules of anchors by path, loaded together with the main
	// ruleset as those in braces behind an anchor line are. An anchor that is
	// not named keeps what it has.
	Anchors map[string][]Rule

	Tables []TableLine

	// Limits are the "set limit" lines, standing above the tables. A limit
	// that is not named stays as it is.
	Limits map[pfioctl.Limit]int

	// Skip are the interfaces of "set skip on", or groups of them.
	Skip []string
}

// A TableLine is a table line of pf.conf.
type TableLine struct {
	Table pfioctl.Table
	Flags pfioctl.TableFlags // TablePersist, TableConst, TableCounters

	// File is what is read for "file", see [Kernel.LoadFile]. When it is nil
	// the line has neither file nor list, and a table that is there keeps its
	// addresses.
	File io.Reader
}

// LoadFile defines a table from a file, as pfctl -f does for the line "table
// <t> file" with these flags: old and new entries are held together until the
// new have taken the place of the old, and where that passes the limit, or the
// file has an entry that is none, nothing is changed. It also leaves the limits
// enforced, as the first load after booting does.
//
// The file holds hosts and networks, "10.1.2.3", "10/8", "2001:db8::/32",
// separated by blanks or newlines; "!" before an entry negates it, "#" begins a
// comment. Bits behind the prefix are masked off. Names of hosts and interfaces,
// which pfctl would look up, are errors here.
func (k *Kernel) LoadFile(t pfioctl.Table, flags pfioctl.TableFlags, file io.Reader) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.load(&Ruleset{Tables: []TableLine{{t, flags, file}}}, nil)
}

// LoadRules loads a ruleset, as pfctl -f does: all of it or, with an error,
// nothing; only limits that it raises stay. Tables that the new rules name come
// into being, those that only the old ones named go unless they are persist.
func (k *Kernel) LoadRules(rs Ruleset) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	paths := append([]string{""}, slices.Sorted(maps.Keys(rs.Anchors))...)
	return k.load(&rs, paths)
}

// load is a pfctl -f of the rulesets of paths, in one transaction.
func (k *Kernel) load(rs *Ruleset, paths []string) (err error) {
	if k.hung {
		return fmt.Errorf("load rules: %w", ErrHang)
	}
	for _, l := range slices.Sorted(maps.Keys(rs.Limits)) {
		io := abi.PfiocLimit{Index: l, Limit: uint32(rs.Limits[l])}
		if err := k.requestLimit(&io); err != nil {
			return fmt.Errorf("set limit %s %d: %w", l, rs.Limits[l], err)
		}
	}

	// A transaction has the rules and the tables of each ruleset.
	rules, tables := map[string]uint32{}, map[string]uint32{}
	defer func() {
		if err != nil {
			for path, ticket := range rules {
				k.rollbackRules(path, ticket)
			}
			for path, ticket := range tables {
				k.inaRollback(path, ticket)
			}
		}
	}()
	for _, path := range paths {
		if rules[path], err = k.beginRules(path); err != nil {
			delete(rules, path)
			return fmt.Errorf("anchor %s: %w", path, err)
		}
	}
	anchors := slices.Clone(paths)
	for _, t := range rs.Tables {
		anchors = append(anchors, t.Table.Anchor)
	}
	slices.Sort(anchors)
	anchors = slices.Compact(anchors)
	for _, path := range anchors {
		if tables[path], err = k.inaBegin(path); err != nil {
			delete(tables, path)
			return fmt.Errorf("anchor %s: %w", path, err)
		}
	}
	for i := range rs.Tables {
		t := &rs.Tables[i]
		if err := k.defineTable(t, tables[t.Table.Anchor]); err != nil {
			return fmt.Errorf("cannot define table %s: %w", t.Table, err)
		}
	}
	for _, path := range paths {
		in, lines := k.findRuleset(path), rs.Rules
		if path != "" {
			lines = rs.Anchors[path]
		}
		for i := range lines {
			if err := k.addRule(in, &lines[i]); err != nil {
				return fmt.Errorf("rule %d of anchor %q: %w", i, path, err)
			}
		}
	}
	if err := k.loadLimits(); err != nil {
		return err
	}
	for _, path := range paths {
		if err := k.commitRules(path, rules[path]); err != nil {
			return fmt.Errorf("anchor %s: %w", path, err)
		}
	}
	for _, path := range anchors {
		if err := k.inaCommit(path, tables[path]); err != nil {
			return fmt.Errorf("anchor %s: %w", path, err)
		}
	}
	if paths != nil {
		clear(k.skip)
		for _, name := range rs.Skip {
			k.skip[name] = true
		}
	}
	return nil
}

// loadLimits is what pfctl -f does to the limits besides those it was given: on
// 7.8 it sends every one, and from then on each is enforced.
func (k *Kernel) loadLimits() error {
	if k.num < 78 {
		return k.commitLimits()
	}
	for l := range pfioctl.Limit(limits) {
		io := abi.PfiocLimit{Index: l, Limit: k.limit[l]}
		if err := k.requestLimit(&io); err != nil {
			return fmt.Errorf("set limit %s %d: %w", l, k.limit[l], err)
		}
	}
	return nil
}

// defineTable sends a table line to the kernel.
func (k *Kernel) defineTable(t *TableLine, ticket uint32) error {
	io := abi.PfiocTable{Esize: int32(addrSize), Ticket: ticket}
	copy(io.Table.Anchor[:], t.Table.Anchor)
	copy(io.Table.Name[:], t.Table.Name)
	io.Table.Flags = t.Flags
	var addrs []byte
	if t.File != nil {
		var err error
		if addrs, err = readAddrs(t.File); err != nil {
			return err
		}
		io.Flags = abi.FlagAddrsToo
		io.Size = int32(len(addrs) / addrSize)
		io.Buffer = unsafe.Pointer(unsafe.SliceData(addrs))
	}
	return k.inaDefine(&io)
}

// readAddrs makes an array of struct pfr_addr of a table's file
// (pfctl_radix.c: pfr_buf_load).
func readAddrs(file io.Reader) ([]byte, error) {
	const longest = 255 // of an entry, in bytes
	var addrs []byte
	in := bufio.NewScanner(file)
	for nr := 1; in.Scan(); nr++ {
		line, _, _ := strings.Cut(in.Text(), "#")
		for _, word := range strings.Fields(line) {
			if len(word) > longest {
				return nil, fmt.Errorf("line %d: entry of %d bytes: %w", nr, len(word), syscall.EINVAL)
			}
			text := strings.TrimLeft(word, "!")
			p, err := parseEntry(text)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", nr, err)
			}
			n := len(addrs)
			addrs = append(addrs, make([]byte, addrSize)...)
			p.putAddress(addrs[n:])
			addrs[n+addrAF], addrs[n+addrNet] = p.af, p.net
			addrs[n+addrNot] = byte((len(word) - len(text)) % 2)
		}
	}
	return addrs, in.Err()
}

// parseEntry reads a host or network as pfctl's parser does (pfctl_parser.c:
// host, host_ip). The last bytes of an IPv4 network may be left out.
func parseEntry(text string) (prefix, error) {
	addr, length, isNet := strings.Cut(text, "/")
	a, err := netip.ParseAddr(addr)
	if err != nil && isNet {
		if n := strings.Count(addr, "."); n < 3 {
			a, err = netip.ParseAddr(addr + strings.Repeat(".0", 3-n))
		}
	}
	if err != nil || a.Zone() != "" {
		return prefix{}, fmt.Errorf("no IP address found for %s", text)
	}
	p := hostPrefix(a)
	if isNet {
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || n > 128 {
			return prefix{}, fmt.Errorf("netmask is invalid: /%s", length)
		}
		if n > uint64(p.maxBits()) {
			return prefix{}, fmt.Errorf("%s: %w", text, syscall.EINVAL)
		}
		p = p.masked(uint8(n))
	}
	return p, nil
}
