package policy

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"
)

// meta is what a record says beside its address, laid out so that records in
// numerical order stand by address, then shortest prefix first, then
// exceptions before lists, then by list, then negated before listed:
//
//	bits 24-31  prefix length
//	bits 10-23  0 for an exception, else ListID + 1
//	bit  9      listed (not negated)
//	bit  0      to be enforced as it is, set by the sweep
type meta uint32

const (
	metaListed  meta = 1 << 9
	metaEnforce meta = 1
	metaOwner        = 1<<14 - 1 // mask of the owner after shifting
)

func newMeta(n uint8, owner int, listed bool) meta {
	m := meta(n)<<24 | meta(owner)<<10
	if listed {
		m |= metaListed
	}
	return m
}

func (m meta) bits() uint8  { return uint8(m >> 24) }
func (m meta) owner() int   { return int(m >> 10 & metaOwner) } // 0: an exception; else ListID + 1
func (m meta) listed() bool { return m&metaListed != 0 }

// list returns NoList for an exception.
func (m meta) list() ListID {
	if m.owner() == 0 {
		return NoList
	}
	return ListID(m.owner() - 1)
}

// owner is the inverse of meta.list.
func (l ListID) owner() int {
	if l == NoList {
		return 0
	}
	return int(l) + 1
}

// An IPv4 record is one number, the address above its meta.
type record4 uint64

func newRecord4(a uint32, m meta) record4 { return record4(a)<<32 | record4(m) }

type record6 struct {
	addr u128
	meta meta
}

func (a record6) compare(b record6) int {
	if c := a.addr.compare(b.addr); c != 0 {
		return c
	}
	return cmp.Compare(a.meta, b.meta)
}

// records are those of one family, in order; one of the two slices is used.
type records struct {
	r4 []record4
	r6 []record6
}

func (r *records) len() int { return len(r.r4) + len(r.r6) }

func (r *records) at(i int) (u128, meta) {
	if r.r4 != nil {
		x := r.r4[i]
		return u128{hi: uint64(x) &^ (1<<32 - 1)}, meta(x)
	}
	return r.r6[i].addr, r.r6[i].meta
}

func (r *records) prefix(i int) netip.Prefix {
	if r.r4 != nil {
		return prefix4(uint32(r.r4[i]>>32), meta(r.r4[i]).bits())
	}
	return prefix6(r.r6[i].addr, r.r6[i].meta.bits())
}

// enforce marks record i.
func (r *records) enforce(i int) {
	if r.r4 != nil {
		r.r4[i] |= record4(metaEnforce)
	} else {
		r.r6[i].meta |= metaEnforce
	}
}

// heap holds records as they come. It grows by pieces, so that while it does
// there are never two copies of it.
type heap[R any] struct {
	pieces [][]R
	n      int
}

const piece = 1 << 13

func (h *heap[R]) add(r R) {
	k := len(h.pieces) - 1
	if k < 0 || len(h.pieces[k]) == piece {
		var p []R
		if k >= 0 {
			p = make([]R, 0, piece)
		}
		h.pieces = append(h.pieces, p)
		k++
	}
	h.pieces[k] = append(h.pieces[k], r)
	h.n++
}

// take empties the heap into one slice.
func (h *heap[R]) take() []R {
	rs := make([]R, 0, h.n)
	for i, p := range h.pieces {
		rs = append(rs, p...)
		h.pieces[i] = nil
	}
	*h = heap[R]{}
	return rs
}

// sorted4 empties a heap of IPv4 records into a sorted slice. Large ones are
// first dealt out by the first bits of the address, of which so many are taken
// that a hand has some ten records where addresses are spread evenly.
func sorted4(h *heap[record4]) []record4 {
	const deal = 1 << 14
	ordered, last := true, record4(0)
	for _, p := range h.pieces {
		for _, r := range p {
			ordered = ordered && last <= r
			last = r
		}
	}
	if ordered || h.n < deal {
		rs := h.take()
		if !ordered {
			slices.Sort(rs)
		}
		return rs
	}
	shift := 64 - min(max(bits.Len(uint(h.n))-4, 16), 18)
	ends := make([]int32, 1<<(64-shift))
	for _, p := range h.pieces {
		for _, r := range p {
			ends[r>>shift]++
		}
	}
	sum := int32(0)
	for i, n := range ends {
		ends[i] = sum // where the next one goes
		sum += n
	}
	rs := make([]record4, h.n)
	for i, p := range h.pieces {
		for _, r := range p {
			at := &ends[r>>shift]
			rs[*at] = r
			*at++
		}
		h.pieces[i] = nil
	}
	*h = heap[record4]{}
	from := int32(0)
	for _, to := range ends {
		sortHand(rs[from:to])
		from = to
	}
	return rs
}

// sortHand sorts the records of a hand, mostly few, by insertion, which is
// twice as fast for so few as what slices.Sort does.
func sortHand(rs []record4) {
	if len(rs) > 32 {
		slices.Sort(rs)
		return
	}
	for i := 1; i < len(rs); i++ {
		r, j := rs[i], i
		for ; j > 0 && rs[j-1] > r; j-- {
			rs[j] = rs[j-1]
		}
		rs[j] = r
	}
}

// sorted6 is sorted4 for IPv6, whose addresses share long first parts.
func sorted6(h *heap[record6]) []record6 {
	rs := h.take()
	if !slices.IsSortedFunc(rs, record6.compare) {
		sort6(rs)
	}
	return rs
}

// sort6 deals records out, in place, by the first eight bits in which any of
// them differ, and so on (American flag sort).
func sort6(rs []record6) {
	var differ u128
	for i := range rs {
		differ.hi |= rs[i].addr.hi ^ rs[0].addr.hi
		differ.lo |= rs[i].addr.lo ^ rs[0].addr.lo
	}
	if len(rs) <= 48 || differ == (u128{}) {
		slices.SortFunc(rs, record6.compare)
		return
	}
	shift := max(differ.bitLen()-8, 0)
	digit := func(a u128) uint8 {
		if shift >= 64 {
			return uint8(a.hi >> (shift - 64))
		}
		return uint8(a.hi<<(64-shift) | a.lo>>shift)
	}
	var at, end [256]int
	for i := range rs {
		end[digit(rs[i].addr)]++
	}
	sum := 0
	for d, n := range end {
		at[d] = sum
		sum += n
		end[d] = sum
	}
	for d := range at {
		for at[d] < end[d] {
			r := rs[at[d]]
			for {
				to := digit(r.addr)
				if int(to) == d {
					break
				}
				rs[at[to]], r = r, rs[at[to]]
				at[to]++
			}
			rs[at[d]] = r
			at[d]++
		}
	}
	from := 0
	for d := range end {
		if n := end[d] - from; n > 1 {
			sort6(rs[from:end[d]])
		}
		from = end[d]
	}
}
