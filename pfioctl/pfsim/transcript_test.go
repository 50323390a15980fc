package pfsim

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"example.org/threatstopd/pfioctl"
	"example.org/threatstopd/pfioctl/internal/abi"
)

// A line of a transcript: a request to the kernel's own table code and its
// answer.
type line struct {
	Req request `json:"req"`
	Ans answer  `json:"resp"`
}

type request struct {
	Op     string       `json:"op"`
	ID     int          `json:"id"`
	Table  tableText    `json:"table"`
	Tables []tableText  `json:"tables"`
	Addrs  []addrText   `json:"addrs"`
	Trans  []transText  `json:"trans"`
	Flags  requestFlags `json:"flags"`

	SetFlag tableFlags `json:"setflag"`
	ClrFlag tableFlags `json:"clrflag"`

	Size    *int32  `json:"size"`
	Size2   *int32  `json:"size2"`
	Esize   *int32  `json:"esize"`
	Nadd    *int32  `json:"nadd"`
	Ndel    *int32  `json:"ndel"`
	Nchange *int32  `json:"nchange"`
	Ticket  word    `json:"ticket"`
	Mapped  *int    `json:"mapped"`
	Fwrite  *int    `json:"fwrite"`
	Secure  *int    `json:"securelevel"`
	Index   limitNr `json:"index"`
	Limit   word    `json:"limit"`
	Request uint    `json:"request"`
	Addr    string  `json:"addr"`
}

type tableText struct {
	Anchor    string     `json:"anchor"`
	Name      string     `json:"name"`
	NameHex   hexBytes   `json:"name_hex"`
	AnchorHex hexBytes   `json:"anchor_hex"`
	Flags     tableFlags `json:"flags"`
}

type addrText struct {
	Addr   string   `json:"addr"`
	AF     *uint8   `json:"af"`
	Net    *uint8   `json:"net"`
	Not    uint8    `json:"not"`
	Fback  feedback `json:"fback"`
	Type   uint8    `json:"type"`
	Weight uint16   `json:"weight"`
	States uint32   `json:"states"`
	Ifname string   `json:"ifname"`
	Raw    hexBytes `json:"raw"`
	Pad    hexBytes `json:"pad"`
}

type transText struct {
	Type   string `json:"type"`
	Anchor string `json:"anchor"`
	Ticket word   `json:"ticket"`
}

// answer is both what a transcript has and what pfsim gave, to be compared.
type answer struct {
	Errno   string       `json:"errno"`
	Size    int32        `json:"size"`
	Size2   int32        `json:"size2"`
	Nadd    int32        `json:"nadd"`
	Ndel    int32        `json:"ndel"`
	Nchange int32        `json:"nchange"`
	Flags   requestFlags `json:"flags"`
	Ticket  uint32       `json:"ticket"`
	Table   *tableAnswer `json:"table"`
	Addrs   []addrAnswer `json:"addrs"`
	// The name is that of an array, or of a number where the pools are asked.
	Tables  json.RawMessage `json:"tables"`
	TStats  []tstatsAnswer  `json:"tstats"`
	AStats  []addrAnswer    `json:"astats"`
	Trans   []transText     `json:"trans"`
	Limit   *uint32         `json:"limit"`
	Match   *int            `json:"match"`
	Entries *int            `json:"entries"`
	Hang    bool            `json:"hang"`
}

type tableAnswer struct {
	Anchor string     `json:"anchor"`
	Name   string     `json:"name"`
	Flags  tableFlags `json:"flags"`
}

type tstatsAnswer struct {
	Table     tableAnswer
	Cnt       int32  `json:"cnt"`
	RefRule   int32  `json:"ref_rule"`
	RefAnchor int32  `json:"ref_anchor"`
	Match     uint64 `json:"match"`
	NoMatch   uint64 `json:"nomatch"`
}

type addrAnswer struct {
	AF     uint8    `json:"af"`
	Addr   addrForm `json:"addr"`
	Raw    string   `json:"raw"`
	Tail   string   `json:"tail"`
	Net    uint8    `json:"net"`
	Not    uint8    `json:"not"`
	Fback  feedback `json:"fback"`
	Type   uint8    `json:"type"`
	Ifname string   `json:"ifname"`
	Weight uint16   `json:"weight"`
	States uint32   `json:"states"`
}

// UnmarshalJSON reads the table's fields from among the others.
func (s *tstatsAnswer) UnmarshalJSON(b []byte) error {
	type plain tstatsAnswer
	if err := json.Unmarshal(b, (*plain)(s)); err != nil {
		return err
	}
	return json.Unmarshal(b, &s.Table)
}

type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	d, err := hex.DecodeString(s)
	*h = d
	return err
}

// named reads a number, a name, or a list of both that are or-ed.
func named(b []byte, names map[string]uint32) (uint32, error) {
	var one any
	if err := json.Unmarshal(b, &one); err != nil {
		return 0, err
	}
	list, ok := one.([]any)
	if !ok {
		list = []any{one}
	}
	var n uint32
	for _, e := range list {
		switch e := e.(type) {
		case float64:
			n |= uint32(int64(e))
		case string:
			bit, ok := names[e]
			if !ok {
				return 0, fmt.Errorf("unknown name %q", e)
			}
			n |= bit
		default:
			return 0, fmt.Errorf("neither name nor number: %s", b)
		}
	}
	return n, nil
}

type requestFlags uint32

func (f *requestFlags) UnmarshalJSON(b []byte) error {
	n, err := named(b, map[string]uint32{"DUMMY": 2, "FEEDBACK": 4, "CLSTATS": 8, "ADDRSTOO": 16, "REPLACE": 32, "ALLRSETS": 64})
	*f = requestFlags(n)
	return err
}

type tableFlags uint32

func (f *tableFlags) UnmarshalJSON(b []byte) error {
	n, err := named(b, map[string]uint32{"PERSIST": 1, "CONST": 2, "ACTIVE": 4, "INACTIVE": 8, "REFERENCED": 16, "REFDANCHOR": 32, "COUNTERS": 64})
	*f = tableFlags(n)
	return err
}

// An addrForm is an address in the one form that [netip.Addr] prints: C
// libraries write the end of some IPv6 addresses as an IPv4 one.
type addrForm string

func (f *addrForm) UnmarshalText(b []byte) error {
	a, err := netip.ParseAddr(string(b))
	*f = addrForm(a.String())
	return err
}

type feedback uint32

func (f *feedback) UnmarshalJSON(b []byte) error {
	names := map[string]uint32{}
	for c, name := range []string{"NONE", "MATCH", "ADDED", "DELETED", "CHANGED", "CLEARED", "DUPLICATE", "NOTMATCH", "CONFLICT", "NOCOUNT"} {
		names[name] = uint32(c)
	}
	n, err := named(b, names)
	*f = feedback(n)
	return err
}

// A word is 32 bits, also where a transcript has them with a sign.
type word uint32

func (w *word) UnmarshalJSON(b []byte) error {
	n, err := named(b, nil)
	*w = word(n)
	return err
}

type limitNr int32

func (l *limitNr) UnmarshalJSON(b []byte) error {
	n, err := named(b, map[string]uint32{"STATES": 0, "SRC_NODES": 1, "FRAGS": 2, "TABLES": 3, "TABLE_ENTRIES": 4, "PKTDELAY_PKTS": 5, "ANCHORS": 6})
	*l = limitNr(int32(n))
	return err
}

func (t *tableText) fill(p *abi.PfrTable) {
	copy(p.Anchor[:], t.Anchor)
	copy(p.Anchor[:], t.AnchorHex)
	copy(p.Name[:], t.Name)
	copy(p.Name[:], t.NameHex)
	p.Flags = pfioctl.TableFlags(t.Flags)
}

func (a *addrText) fill(b []byte) error {
	af, bits := byte(0), byte(0)
	if a.Addr != "" {
		ip, err := netip.ParseAddr(a.Addr)
		if err != nil {
			return err
		}
		copy(b, ip.AsSlice())
		af, bits = afInet, 32
		if ip.Is6() {
			af, bits = afInet6, 128
		}
	}
	copy(b[:16], a.Raw)
	if a.AF != nil {
		af = *a.AF
	}
	if a.Net != nil {
		bits = *a.Net
	}
	copy(b[addrIfname:][:ifnameSize], a.Ifname)
	binary.NativeEndian.PutUint32(b[addrStates:], a.States)
	binary.NativeEndian.PutUint16(b[addrWeight:], a.Weight)
	b[addrAF], b[addrNet], b[addrNot], b[addrFback], b[addrType] = af, bits, a.Not, byte(a.Fback), a.Type
	copy(b[addrType+1:addrSize], a.Pad)
	return nil
}

func readAddr(b []byte, weight bool) addrAnswer {
	a := addrAnswer{
		AF: b[addrAF], Net: b[addrNet], Not: b[addrNot], Fback: feedback(b[addrFback]), Type: b[addrType],
		Ifname: cString(b[addrIfname:][:ifnameSize]),
		States: binary.NativeEndian.Uint32(b[addrStates:]),
	}
	if weight {
		a.Weight = binary.NativeEndian.Uint16(b[addrWeight:])
	}
	zero := func(b []byte) bool { return strings.Trim(string(b), "\x00") == "" }
	switch a.AF {
	case afInet:
		a.Addr = addrForm(netip.AddrFrom4([4]byte(b)).String())
		if !zero(b[4:16]) {
			a.Tail = hex.EncodeToString(b[4:16])
		}
	case afInet6:
		a.Addr = addrForm(netip.AddrFrom16([16]byte(b)).String())
	default:
		if !zero(b[:16]) {
			a.Raw = hex.EncodeToString(b[:16])
		}
	}
	return a
}

var errnoNames = map[syscall.Errno]string{
	syscall.EPERM: "EPERM", syscall.ENOENT: "ENOENT", syscall.ESRCH: "ESRCH", syscall.ENXIO: "ENXIO",
	syscall.EBADF: "EBADF", syscall.ENOMEM: "ENOMEM", syscall.EACCES: "EACCES", syscall.EFAULT: "EFAULT",
	syscall.EBUSY: "EBUSY", syscall.EEXIST: "EEXIST", syscall.ENODEV: "ENODEV", syscall.EINVAL: "EINVAL",
	syscall.ENOTTY: "ENOTTY", syscall.ENAMETOOLONG: "ENAMETOOLONG",
}

func errnoName(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "OK"
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) || errnoNames[errno] == "" {
		t.Fatalf("an error that the kernel does not have: %v", err)
	}
	return errnoNames[errno]
}

// arrays, for each request, what its array is made of.
const (
	ofNothing = iota
	ofAddrs
	ofTables
	ofTStats
	ofAStats
)

// replay carries out a request and returns what the transcript would have as
// its answer.
func replay(t testing.TB, k *Kernel, req *request) answer {
	t.Helper()
	k.SetSecurelevel(1)
	if req.Secure != nil {
		k.SetSecurelevel(*req.Secure)
	}
	d := k.Open(req.Fwrite == nil || *req.Fwrite != 0)
	defer d.Close()
	r := k.req

	switch req.Op {
	case "NOUT":
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.hung {
			return answer{Hang: true}
		}
		return answer{
			Tables:  fmt.Appendf(nil, "%d", k.used(pfioctl.LimitTables)),
			Entries: ptr(k.used(pfioctl.LimitTableEntries)),
		}
	case "MATCH", "ATTACH", "DETACH":
		return replayRule(t, k, req)
	case "RAWIOCTL":
		buf := mapBuffer(t, int(req.Request>>iocShift&iocMask))
		defer buf.Close()
		err := d.Ioctl(req.Request, buf.Pointer())
		if err == ErrHang {
			return answer{Hang: true}
		}
		return answer{Errno: errnoName(t, err)}
	case "DIOCSTART", "DIOCSTOP":
		err := d.Ioctl(map[string]uint{"DIOCSTART": r.Start, "DIOCSTOP": r.Stop}[req.Op], nil)
		if err == ErrHang {
			return answer{Hang: true}
		}
		return answer{Errno: errnoName(t, err)}
	case "DIOCGETLIMIT", "DIOCSETLIMIT":
		io := abi.PfiocLimit{Index: pfioctl.Limit(req.Index), Limit: uint32(req.Limit)}
		err := d.Ioctl(map[string]uint{"DIOCGETLIMIT": r.GetLimit, "DIOCSETLIMIT": r.SetLimit}[req.Op], unsafe.Pointer(&io))
		if err == ErrHang {
			return answer{Hang: true}
		}
		return answer{Errno: errnoName(t, err), Limit: &io.Limit}
	case "DIOCXBEGIN", "DIOCXCOMMIT", "DIOCXROLLBACK":
		return replayTrans(t, d, req)
	}
	return replayTable(t, d, k.layout, req)
}

// replayTable is [replay] of the requests that work on tables, which are those
// of any device.
func replayTable(t testing.TB, d pfioctl.Device, layout *abi.Layout, req *request) answer {
	t.Helper()
	r := layout.Req
	op, ok := map[string]struct {
		nr    uint
		esize int
		of    int
	}{
		"DIOCRCLRTABLES": {r.ClrTables, 0, ofNothing},
		"DIOCRADDTABLES": {r.AddTables, tableSize, ofTables},
		"DIOCRDELTABLES": {r.DelTables, tableSize, ofTables},
		"DIOCRGETTABLES": {r.GetTables, tableSize, ofTables},
		"DIOCRGETTSTATS": {r.GetTStats, layout.TStats.Size, ofTStats},
		"DIOCRCLRTSTATS": {r.ClrTStats, tableSize, ofTables},
		"DIOCRSETTFLAGS": {r.SetTFlags, tableSize, ofTables},
		"DIOCRCLRADDRS":  {r.ClrAddrs, 0, ofNothing},
		"DIOCRADDADDRS":  {r.AddAddrs, addrSize, ofAddrs},
		"DIOCRDELADDRS":  {r.DelAddrs, addrSize, ofAddrs},
		"DIOCRSETADDRS":  {r.SetAddrs, addrSize, ofAddrs},
		"DIOCRGETADDRS":  {r.GetAddrs, addrSize, ofAddrs},
		"DIOCRGETASTATS": {r.GetAStats, layout.AStats.Size, ofAStats},
		"DIOCRCLRASTATS": {r.ClrAStats, addrSize, ofAddrs},
		"DIOCRTSTADDRS":  {r.TstAddrs, addrSize, ofAddrs},
		"DIOCRINADEFINE": {r.InaDefine, addrSize, ofAddrs},
	}[req.Op]
	if !ok {
		t.Fatalf("unknown operation %q", req.Op)
	}

	var io abi.PfiocTable
	req.Table.fill(&io.Table)
	io.Esize = int32(op.esize)
	io.Size = int32(max(len(req.Addrs), len(req.Tables)))
	io.Flags = abi.RequestFlags(req.Flags)
	io.Ticket = uint32(req.Ticket)
	if req.Op == "DIOCRSETTFLAGS" {
		io.Size2, io.Nadd = int32(req.SetFlag), int32(req.ClrFlag)
	}
	for _, o := range []struct{ from, to *int32 }{
		{req.Size, &io.Size}, {req.Size2, &io.Size2}, {req.Esize, &io.Esize},
		{req.Nadd, &io.Nadd}, {req.Ndel, &io.Ndel}, {req.Nchange, &io.Nchange},
	} {
		if o.from != nil {
			*o.to = *o.from
		}
	}
	elements := max(len(req.Addrs), len(req.Tables), int(io.Size))
	if req.Op == "DIOCRSETADDRS" && io.Flags&abi.FlagFeedback != 0 {
		elements = max(elements, int(io.Size2))
	}
	if req.Mapped != nil {
		elements = *req.Mapped
	}
	if elements > 1<<20 {
		t.Fatalf("a buffer of %d elements", elements)
	}
	buf := mapBuffer(t, elements*op.esize)
	defer buf.Close()
	mem := buf.Bytes()
	for i := range min(elements, len(req.Addrs)) {
		if err := req.Addrs[i].fill(mem[i*addrSize:]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range min(elements, len(req.Tables)) {
		var p abi.PfrTable
		req.Tables[i].fill(&p)
		copy(mem[i*tableSize:], bytesOf(&p))
	}
	io.Buffer = buf.Pointer()
	asked := int(io.Size)

	err := d.Ioctl(op.nr, unsafe.Pointer(&io))
	if err == ErrHang {
		return answer{Hang: true}
	}
	a := answer{
		Errno: errnoName(t, err), Size: io.Size, Size2: io.Size2, Nadd: io.Nadd, Ndel: io.Ndel, Nchange: io.Nchange,
		Flags: requestFlags(io.Flags), Ticket: io.Ticket, Table: readTable(&io.Table),
	}
	returned := func() int {
		if err != nil || int(io.Size) > elements || int(io.Size) > max(asked, 0) {
			return -1
		}
		return int(io.Size)
	}
	switch req.Op {
	case "DIOCRGETADDRS", "DIOCRGETASTATS":
		n := returned()
		list := make([]addrAnswer, max(n, 0))
		for i := range list {
			list[i] = readAddr(mem[i*op.esize:], true)
		}
		switch {
		case n < 0:
		case op.of == ofAStats:
			a.AStats = list
		default:
			a.Addrs = list
		}
	case "DIOCRGETTABLES":
		n := returned()
		if n < 0 {
			break
		}
		list := make([]tableAnswer, n)
		for i := range list {
			list[i] = *readTable((*abi.PfrTable)(unsafe.Pointer(&mem[i*tableSize])))
		}
		a.Tables, _ = json.Marshal(list)
	case "DIOCRGETTSTATS":
		n := returned()
		if n < 0 {
			break
		}
		l := layout.TStats
		a.TStats = make([]tstatsAnswer, n)
		for i := range a.TStats {
			b := mem[i*l.Size:][:l.Size]
			a.TStats[i] = tstatsAnswer{
				Table:     *readTable((*abi.PfrTable)(unsafe.Pointer(&b[0]))),
				Cnt:       int32(binary.NativeEndian.Uint32(b[l.Cnt:])),
				RefRule:   int32(binary.NativeEndian.Uint32(b[l.Refcnt:])),
				RefAnchor: int32(binary.NativeEndian.Uint32(b[l.Refcnt+4:])),
				Match:     binary.NativeEndian.Uint64(b[l.Match:]),
				NoMatch:   binary.NativeEndian.Uint64(b[l.NoMatch:]),
			}
		}
	default:
		if op.of == ofAddrs {
			a.Addrs = make([]addrAnswer, elements)
			for i := range a.Addrs {
				a.Addrs[i] = readAddr(mem[i*addrSize:], req.Op != "DIOCRADDADDRS")
			}
		}
	}
	return a
}

func readTable(p *abi.PfrTable) *tableAnswer {
	return &tableAnswer{Anchor: cString(p.Anchor[:]), Name: cString(p.Name[:]), Flags: tableFlags(p.Flags)}
}

func replayTrans(t testing.TB, d *Device, req *request) answer {
	io := abi.PfiocTrans{Size: int32(len(req.Trans)), Esize: int32(transSize)}
	if req.Size != nil {
		io.Size = *req.Size
	}
	if req.Esize != nil {
		io.Esize = *req.Esize
	}
	elements := len(req.Trans)
	if req.Mapped != nil {
		elements = *req.Mapped
	}
	buf := mapBuffer(t, elements*transSize)
	defer buf.Close()
	at := func(i int) *abi.PfiocTransE {
		return (*abi.PfiocTransE)(unsafe.Pointer(&buf.Bytes()[i*transSize]))
	}
	for i := range min(elements, len(req.Trans)) {
		e := at(i)
		switch req.Trans[i].Type {
		case "TABLE":
			e.Type = transTable
		case "RULESET":
			e.Type = transRuleset
		default:
			e.Type = 99
		}
		copy(e.Anchor[:], req.Trans[i].Anchor)
		e.Ticket = uint32(req.Trans[i].Ticket)
	}
	io.Array = buf.Pointer()
	r := d.k.req
	err := d.Ioctl(map[string]uint{"DIOCXBEGIN": r.XBegin, "DIOCXCOMMIT": r.XCommit, "DIOCXROLLBACK": r.XRollback}[req.Op], unsafe.Pointer(&io))
	if err == ErrHang {
		return answer{Hang: true}
	}
	a := answer{Errno: errnoName(t, err), Trans: []transText{}}
	for i := range elements {
		a.Trans = append(a.Trans, transText{Anchor: cString(at(i).Anchor[:]), Ticket: word(at(i).Ticket)})
	}
	return a
}

// replayRule is what a rule that names a table would do.
func replayRule(t testing.TB, k *Kernel, req *request) answer {
	var p abi.PfrTable
	req.Table.fill(&p)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hung {
		return answer{Hang: true}
	}
	switch req.Op {
	case "ATTACH":
		rs := k.findOrCreateRuleset(cString(p.Anchor[:]))
		if rs == nil || k.attachTable(rs, cString(p.Name[:])) == nil {
			return answer{Errno: "EINVAL"}
		}
		return answer{Errno: "OK"}
	case "DETACH":
		switch kt := k.lookupTable(&p); {
		case kt == nil:
			return answer{Errno: "ESRCH"}
		case kt.refs[refRule] == 0:
			return answer{Errno: "EINVAL"}
		default:
			k.detachTable(kt)
			return answer{Errno: "OK"}
		}
	}
	match := 0
	if kt := k.lookupTable(&p); kt != nil && kt.matches(hostPrefix(netip.MustParseAddr(req.Addr))) {
		match = 1
	}
	return answer{Match: &match}
}

func mapBuffer(t testing.TB, size int) *Buffer {
	t.Helper()
	b, err := MapBuffer(size)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ptr[T any](v T) *T { return &v }
