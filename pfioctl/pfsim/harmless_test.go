package pfsim

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// What of the transcripts may be asked of a kernel that guards somebody's host.
// Everything happens in tables of our own, below an anchor of our own, which no
// rule calls.
const (
	testAnchor = "threatstopd-test"
	testRoot   = "root" // the anchor below it that stands for the main ruleset
	testPrefix = "tsd_test_"

	// mostElements bounds what one request allocates.
	mostElements = 4096
)

// harmlessOps are the only requests that are made, and whether they change a
// table.
var harmlessOps = map[string]bool{
	"DIOCRADDTABLES": true,
	"DIOCRSETADDRS":  true,
	"DIOCRADDADDRS":  true, // only far below the limit, see runEpisode
	"DIOCRDELADDRS":  true,
	"DIOCRCLRADDRS":  true,
	"DIOCRGETADDRS":  false,
	"DIOCRGETASTATS": false,
	"DIOCRTSTADDRS":  false,
}

// withoutTrace are requests that are left out, and that later answers do not
// depend on: they change no table, or only what no answer here shows. Packets
// and counters are such.
var withoutTrace = map[string]bool{
	"NOUT": true, "MATCH": true, "DIOCGETLIMIT": true, "DIOCSTART": true, "DIOCSTOP": true,
	"DIOCRGETTABLES": true, "DIOCRGETTSTATS": true, "DIOCRCLRTSTATS": true, "DIOCRCLRASTATS": true,
}

// A harmlessLine is a line of a transcript that may be asked.
type harmlessLine struct {
	line
	// The kernel does not count a table of the main ruleset as added that one
	// in an anchor has mentioned before (pf_table.c: pfr_add_tables). Inside
	// an anchor no table is mentioned so, and its count is not compared.
	anyAdded bool
}

// harmless returns the part of an episode, which is what stands between two
// RESETs, that can be asked of any host, rewritten to tables of our own, and
// why it is not all of it, or empty. A request that is left out ends it when
// what follows depends on it.
//
// What differs from the transcript is recognised by the tables' names and anchors, in
// requests and answers alike. All else has to be answered as recorded.
func harmless(lines []line) (kept []harmlessLine, why string) {
	for _, l := range lines {
		q := &l.Req
		switch {
		case l.Ans.Hang:
			return nil, "hangs"
		case q.Secure != nil && *q.Secure != 1:
			return nil, "is of another securelevel"
		case q.Fwrite != nil && *q.Fwrite == 0:
			return nil, "is of a descriptor that cannot write"
		case q.Op == "DIOCSETLIMIT":
			return nil, "is of a limit"
		}
	}
	anchored := map[string]bool{} // names of tables that anchors have had
	for _, l := range lines {
		q := &l.Req
		if reason := harms(q); reason != "" {
			if leavesTrace(&l) {
				return kept, reason
			}
			continue
		}
		k := harmlessLine{line: l}
		if q.Op == "DIOCRADDTABLES" {
			for _, t := range q.Tables {
				if strings.Trim(t.Anchor, "/") != "" {
					anchored[t.Name] = true
				}
			}
			for _, t := range q.Tables {
				k.anyAdded = k.anyAdded || strings.Trim(t.Anchor, "/") == "" && anchored[t.Name]
			}
		}
		k.rewrite()
		kept = append(kept, k)
	}
	if !slices.ContainsFunc(kept, func(k harmlessLine) bool { return k.Req.Op != "DIOCRADDTABLES" }) {
		return nil, "has no table in it"
	}
	return kept, ""
}

// harms returns why a request is not made, or is empty.
func harms(q *request) string {
	if _, ok := harmlessOps[q.Op]; !ok {
		return q.Op
	}
	if q.Flags&requestFlags(abi.FlagClrStats) != 0 {
		return q.Op + " that clears counters"
	}
	elements := max(len(q.Addrs), len(q.Tables))
	for _, n := range []*int32{q.Size, q.Size2} {
		if n != nil {
			elements = max(elements, int(*n))
		}
	}
	if elements > mostElements {
		return fmt.Sprintf("%s of %d elements", q.Op, elements)
	}
	for _, t := range append([]tableText{q.Table}, q.Tables...) {
		if strings.HasPrefix(strings.TrimLeft(t.Anchor, "/"), abi.ReservedAnchor) {
			return q.Op + " of the kernel's own tables"
		}
	}
	return ""
}

// leavesTrace reports whether later answers may depend on the line.
func leavesTrace(l *line) bool {
	q := &l.Req
	if changes, ok := harmlessOps[q.Op]; withoutTrace[q.Op] || ok && !changes {
		return false
	}
	switch {
	case !strings.HasPrefix(q.Op, "DIOCR"):
		return true
	case q.Flags&requestFlags(abi.FlagDummy) != 0 && q.Op != "DIOCRINADEFINE":
		return false
	case q.Op == "DIOCRADDADDRS":
		return true // what it has added stays when it cannot know
	}
	return l.Ans.Errno == "OK"
}

// rewrite moves the line into tables of our own.
func (k *harmlessLine) rewrite() {
	move := func(t *tableText) {
		if t.AnchorHex != nil {
			t.AnchorHex = append([]byte(testAnchor+"/"), t.AnchorHex...)
		} else {
			t.Anchor = ownAnchor(t.Anchor)
		}
		if t.NameHex != nil {
			t.NameHex = append([]byte(testPrefix), t.NameHex...)
		} else {
			t.Name = ownName(t.Name)
		}
	}
	k.Req.Tables = slices.Clone(k.Req.Tables)
	for i := range k.Req.Tables {
		move(&k.Req.Tables[i])
	}
	if k.Req.Op != "DIOCRADDTABLES" {
		move(&k.Req.Table)
	}
	if a := k.Ans.Table; a != nil {
		k.Ans.Table = &tableAnswer{Anchor: ownAnchor(a.Anchor), Name: ownName(a.Name), Flags: a.Flags}
	}
}

// ownAnchor is the anchor that stands for another. The slashes at its front,
// which the kernel takes away, stay there; one that fills its field, or more,
// stays as long as it is.
func ownAnchor(anchor string) string {
	path := strings.TrimLeft(anchor, "/")
	slashes := anchor[:len(anchor)-len(path)]
	if path == "" {
		path = testRoot
	}
	const above = testAnchor + "/"
	if len(slashes)+len(above)+len(path) >= abi.AnchorPathSize {
		path = path[len(above):]
	}
	return slashes + above + path
}

// ownName is the name that stands for another. The main ruleset gets an
// inactive table of each name that is in use in an anchor, so that it must be
// none that a host has. A name that is too long stays so, and an empty one too.
func ownName(name string) string {
	if name == "" {
		return ""
	}
	if len(testPrefix)+len(name) >= abi.TableNameSize {
		name = name[len(testPrefix):]
	}
	return testPrefix + name
}

// An episode is a sequence of requests that begins without any table.
type episode struct {
	name  string // the transcript and the line at which it begins
	lines []harmlessLine
	why   string // why not all of it, or empty
}

// harmlessEpisodes are those of the transcripts in testdata.
func harmlessEpisodes(t *testing.T) []episode {
	t.Helper()
	files, err := filepath.Glob("testdata/transcripts/*.jsonl.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in testdata: %v", err)
	}
	var out []episode
	for _, file := range files {
		out = append(out, episodesOf(t, file)...)
	}
	return out
}

func episodesOf(t *testing.T, file string) (out []episode) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	base, _, _ := strings.Cut(filepath.Base(file), ".")
	var (
		lines []line
		name  string
		in    = json.NewDecoder(bufio.NewReader(z))
	)
	done := func() {
		if len(lines) > 0 {
			kept, why := harmless(lines)
			out = append(out, episode{name, kept, why})
		}
		lines = nil
	}
	for n := 1; ; n++ {
		var l line
		if err := in.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%s:%d: %v", file, n, err)
		}
		if l.Req.Op == "RESET" {
			done()
			name = fmt.Sprintf("%s:%d", base, n)
			continue
		}
		lines = append(lines, l)
	}
	done()
	return out
}

// runEpisode asks an episode of a kernel, whichever it is. It begins and ends
// without a table of ours.
func runEpisode(t *testing.T, d pfioctl.Device, layout *abi.Layout, s episode) {
	d = onlyHarmless{t, d, layout.Req}
	pf := pfOn(t, d, layout.Release)
	removeOwnTables(t, pf)
	defer removeOwnTables(t, pf)
	for i := range s.lines {
		l := &s.lines[i]
		if why := crowded(t, pf, &l.Req); why != "" {
			t.Skip(why)
		}
		for i := range l.Req.Tables {
			var p abi.PfrTable
			if l.Req.Tables[i].fill(&p); !ours(&p) {
				t.Fatalf("%s of anchor %q", l.Req.Op, cString(p.Anchor[:]))
			}
		}
		got := replayTable(t, d, layout, &l.Req)
		if l.anyAdded {
			got.Nadd = l.Ans.Nadd
		}
		if diff := difference(t, &l.line, got); diff != "" {
			t.Fatalf("%s id %d of %s: answered otherwise (- recorded, + now)\n%s", l.Req.Op, l.Req.ID, l.Req.Table.Name, diff)
		}
	}
}

// crowded returns why a request had better not be made: one that adds takes an
// entry of the pool for each element, and DIOCRADDADDRS waits for ever, with
// all other requests behind it, where there is none left. An eighth of the pool
// is left for what the host itself may do meanwhile.
func crowded(t *testing.T, pf *pfioctl.PF, q *request) string {
	t.Helper()
	if !harmlessOps[q.Op] {
		return ""
	}
	entries, tables, err := pf.Used()
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct {
		limit      pfioctl.Limit
		used, more int
	}{
		{pfioctl.LimitTableEntries, entries, elementsOf(q)},
		{pfioctl.LimitTables, tables, 2*len(q.Tables) + 2},
	} {
		most, err := pf.Limit(of.limit)
		if err != nil {
			t.Fatal(err)
		}
		if of.used+of.more >= most-most/8 {
			return fmt.Sprintf("limit %s %d leaves too little room: %d are used, and %s takes %d more", of.limit, most, of.used, q.Op, of.more)
		}
	}
	return ""
}

func elementsOf(q *request) int {
	n := len(q.Addrs)
	if q.Size != nil {
		n = max(n, int(*q.Size))
	}
	return n
}

// ownTables lists the tables of ours that the kernel has.
func ownTables(t *testing.T, pf *pfioctl.PF) (own []pfioctl.Table) {
	t.Helper()
	all, err := pf.AllTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Anchor == testAnchor || strings.HasPrefix(s.Anchor, testAnchor+"/") {
			own = append(own, s.Table)
		}
	}
	return own
}

// removeOwnTables leaves the kernel without a table of ours, and without our
// anchor: an anchor that could be made only in part goes with the last table
// beside it.
func removeOwnTables(t *testing.T, pf *pfioctl.PF) {
	t.Helper()
	last := pfioctl.Table{Anchor: testAnchor + "/" + testRoot, Name: testPrefix + "last"}
	if _, err := pf.AddTables(pfioctl.TablePersist, last); err != nil {
		t.Error(err)
	}
	if _, err := pf.DelTables(ownTables(t, pf)...); err != nil {
		t.Error(err)
	}
	if left := ownTables(t, pf); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// ours reports whether a table is below our anchor.
func ours(p *abi.PfrTable) bool {
	return strings.HasPrefix(strings.TrimLeft(string(p.Anchor[:]), "/"), testAnchor+"/")
}

// onlyHarmless is a device that lets nothing else through, even if the code
// above it does.
type onlyHarmless struct {
	t *testing.T
	pfioctl.Device
	r abi.Requests
}

func (o onlyHarmless) Ioctl(req uint, arg unsafe.Pointer) error {
	r := o.r
	switch req {
	case r.GetLimit, r.GetTStats:
	case r.AddTables, r.DelTables: // their tables are in an array, see runEpisode
	case r.SetAddrs, r.AddAddrs, r.DelAddrs, r.ClrAddrs, r.GetAddrs, r.GetAStats, r.TstAddrs:
		if io := (*abi.PfiocTable)(arg); !ours(&io.Table) {
			o.t.Fatalf("request %#x of anchor %q", req, cString(io.Table.Anchor[:]))
		}
	default:
		o.t.Fatalf("request %#x", req)
	}
	return o.Device.Ioctl(req, arg)
}

// TestHarmlessEmits looks at what is emitted of the recorded transcripts.
func TestHarmlessEmits(t *testing.T) {
	mayBe := map[string]int{ // and how many at least
		"DIOCRADDTABLES": 220, "DIOCRSETADDRS": 300, "DIOCRDELADDRS": 150, "DIOCRCLRADDRS": 50,
		"DIOCRGETADDRS": 650, "DIOCRGETASTATS": 60, "DIOCRTSTADDRS": 150, "DIOCRADDADDRS": 150,
	}
	ops, whole, ended := map[string]int{}, 0, map[string]int{}
	names := map[string]bool{}
	for _, s := range harmlessEpisodes(t) {
		if s.why == "" {
			whole++
		} else {
			ended[s.why]++
		}
		for _, l := range s.lines {
			q := &l.Req
			ops[q.Op]++
			if _, ok := mayBe[q.Op]; !ok {
				t.Errorf("%s id %d: %s", s.name, q.ID, q.Op)
			}
			if l.Ans.Hang || q.Flags&8 != 0 || q.Fwrite != nil && *q.Fwrite != 1 || q.Secure != nil && *q.Secure != 1 {
				t.Errorf("%s id %d: %+v", s.name, q.ID, q)
			}
			if n := elementsOf(q); n > mostElements {
				t.Errorf("%s id %d: %d elements", s.name, q.ID, n)
			}
			tables := q.Tables
			if q.Op != "DIOCRADDTABLES" {
				tables = []tableText{q.Table}
			}
			for _, table := range tables {
				var p abi.PfrTable
				table.fill(&p)
				anchor, name := strings.TrimLeft(string(p.Anchor[:]), "/"), cString(p.Name[:])
				if below, ok := strings.CutPrefix(anchor, "threatstopd-test/"); !ok || below[0] == 0 || below[0] == '/' {
					t.Errorf("%s id %d: anchor %q", s.name, q.ID, cString(p.Anchor[:]))
				}
				if name != "" && !strings.HasPrefix(name, "tsd_test_") {
					t.Errorf("%s id %d: table %q", s.name, q.ID, name)
				}
				names[name] = true
			}
		}
	}
	for op, least := range mayBe {
		if ops[op] < least {
			t.Errorf("%d of %s, want at least %d", ops[op], op, least)
		}
	}
	t.Logf("%d whole episodes, others end with %v; requests %v; tables %d", whole, ended, ops, len(names))
}

// TestHarmless cuts episodes in each way there is.
func TestHarmless(t *testing.T) {
	const (
		add = `{"req":{"op":"DIOCRADDTABLES","id":1,"tables":[{"name":"bl"}]},"resp":{"errno":"OK","nadd":1}}`
		set = `{"req":{"op":"DIOCRSETADDRS","id":2,"table":{"name":"bl"},"addrs":[{"addr":"192.0.2.1"}]},"resp":{"errno":"OK","nadd":1,"table":{"name":"bl"}}}`
		get = `{"req":{"op":"DIOCRGETADDRS","id":9,"table":{"name":"bl"},"size":8},"resp":{"errno":"OK","size":1}}`
	)
	other := func(op, req, errno string) string {
		if req != "" {
			req = "," + req
		}
		return fmt.Sprintf(`{"req":{"op":%q,"id":3%s},"resp":{"errno":%q}}`, op, req, errno)
	}
	whole, cut, none := []int{1, 2, 9}, []int{1, 2}, []int(nil)
	tests := []struct {
		name string
		line string
		want []int // ids
		why  string
	}{
		{"a request that is asked", other("DIOCRCLRADDRS", `"table":{"name":"bl"}`, "OK"), []int{1, 2, 3, 9}, ""},
		{"a request that may hang", `{"req":{"op":"DIOCRADDADDRS","id":3,"table":{"name":"bl"}},"resp":{"hang":true}}`, none, "hangs"},
		{"a limit", other("DIOCSETLIMIT", `"index":"TABLES","limit":1`, "EBUSY"), none, "is of a limit"},
		{"a securelevel", other("DIOCRGETADDRS", `"securelevel":2`, "OK"), none, "is of another securelevel"},
		{"a descriptor that cannot write", other("DIOCRGETADDRS", `"fwrite":0`, "OK"), none, "is of a descriptor that cannot write"},
		{"the usual securelevel and descriptor", other("DIOCRTSTADDRS", `"fwrite":1,"securelevel":1`, "OK"), []int{1, 2, 3, 9}, ""},
		{"pf disabled", other("DIOCSTOP", "", "OK"), whole, ""},
		{"pf enabled", other("DIOCSTART", "", "OK"), whole, ""},
		{"a transaction", other("DIOCXBEGIN", "", "OK"), cut, "DIOCXBEGIN"},
		{"a definition", other("DIOCRINADEFINE", `"flags":["DUMMY"]`, "EBUSY"), []int{1, 2, 9}, ""},
		{"a definition with a ticket", other("DIOCRINADEFINE", `"flags":["DUMMY"]`, "OK"), cut, "DIOCRINADEFINE"},
		{"flags set", other("DIOCRSETTFLAGS", "", "OK"), cut, "DIOCRSETTFLAGS"},
		{"flags as if set", other("DIOCRSETTFLAGS", `"flags":["DUMMY"]`, "OK"), whole, ""},
		{"flags refused", other("DIOCRSETTFLAGS", "", "EINVAL"), whole, ""},
		{"tables deleted", other("DIOCRDELTABLES", "", "OK"), cut, "DIOCRDELTABLES"},
		{"every table deleted", other("DIOCRCLRTABLES", "", "OK"), cut, "DIOCRCLRTABLES"},
		{"counters of addresses cleared", other("DIOCRCLRASTATS", "", "OK"), whole, ""},
		{"counters of tables cleared", other("DIOCRCLRTSTATS", "", "OK"), whole, ""},
		{"counters cleared by a look", other("DIOCRGETASTATS", `"flags":["CLSTATS"]`, "OK"), whole, ""},
		{"a rule", other("ATTACH", "", "OK"), cut, "ATTACH"},
		{"a request that nobody knows", other("DIOCNEW", "", "EINVAL"), cut, "DIOCNEW"},
		{"the kernel's tables", other("DIOCRGETADDRS", `"table":{"name":"bl","anchor":"/_pf"}`, "ESRCH"), whole, ""},
		{"the kernel's tables among others", other("DIOCRADDTABLES", `"tables":[{"name":"a"},{"name":"bl","anchor":"_pf"}]`, "EINVAL"), whole, ""},
		{"too many addresses, read", other("DIOCRGETADDRS", `"size":1000000`, "OK"), whole, ""},
		{"too many addresses, set", other("DIOCRSETADDRS", `"size":1000000`, "OK"), cut, "DIOCRSETADDRS of 1000000 elements"},
		{"too many addresses, room for them", other("DIOCRSETADDRS", `"size2":1000000`, "OK"), cut, "DIOCRSETADDRS of 1000000 elements"},
		{"too many addresses, added and lost", other("DIOCRADDADDRS", `"size":1000000`, "EFAULT"), cut, "DIOCRADDADDRS of 1000000 elements"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var lines []line
			for _, text := range []string{add, set, tt.line, get} {
				var l line
				if err := json.Unmarshal([]byte(text), &l); err != nil {
					t.Fatal(err)
				}
				lines = append(lines, l)
			}
			kept, why := harmless(lines)
			var got []int
			for _, k := range kept {
				got = append(got, k.Req.ID)
			}
			if !slices.Equal(got, tt.want) || why != tt.why {
				t.Errorf("requests %v and %q, want %v and %q", got, why, tt.want, tt.why)
			}
			if lines[0].Req.Tables[0].Name != "bl" || lines[1].Req.Table.Anchor != "" || lines[1].Ans.Table.Name != "bl" {
				t.Error("the lines were written to")
			}
		})
	}
}

// TestOwnNames: what is wrong with a name, and what the kernel makes of it, is
// the same with ours.
func TestOwnNames(t *testing.T) {
	long := func(n int) string { return strings.Repeat("q", n) }
	for _, tt := range []struct{ from, want string }{
		{"", "threatstopd-test/root"},
		{"/", "/threatstopd-test/root"},
		{"a/b", "threatstopd-test/a/b"},
		{"///f/g", "///threatstopd-test/f/g"},
		{long(1006), "threatstopd-test/" + long(1006)},
		{long(1007), "threatstopd-test/" + long(990)},
		{long(1023), "threatstopd-test/" + long(1006)},
		{long(1024), "threatstopd-test/" + long(1007)},
	} {
		if got := ownAnchor(tt.from); got != tt.want {
			t.Errorf("anchor %q: %q, want %q", tt.from, got, tt.want)
		}
	}
	for _, tt := range []struct{ from, want string }{
		{"", ""},
		{"x", "tsd_test_x"},
		{"a-very-long-table-name-31-chars", "tsd_test_ng-table-name-31-chars"},
		{long(22), "tsd_test_" + long(22)},
		{long(31), "tsd_test_" + long(22)},
		{long(32), "tsd_test_" + long(23)},
	} {
		if got := ownName(tt.from); got != tt.want {
			t.Errorf("table %q: %q, want %q", tt.from, got, tt.want)
		}
	}
}
