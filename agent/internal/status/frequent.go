package status

import "hash/maphash"

// A frequent counts which keys of a stream come most often, in memory that does not
// grow: the space-saving algorithm of Metwally, Agrawal and El Abbadi. It keeps a fixed
// number of keys; one that is new takes the place of the rarest, and its count, of which
// so much is then uncertain.
//
// Of a key that is kept, count is never too small and count-slack never too large; one
// that is not kept has come floor times at most. A key with more than the n-th part of
// all hits is always among n kept.
type frequent[K comparable] struct {
	entries []counter[K]
	n       int // of entries in use
	floor   uint64

	// The rarest key is found by going round: counts only grow, so the cursor
	// comes past each entry once before the least count rises. least is the least count,
	// while all entries are in use; 0 when it is not known.
	cursor int
	least  uint64

	// index has 1 + the entry of a key at the key's hash or in the places behind
	// it, 0 for none. Go's maps may allocate when keys come and go.
	index []uint16
	seed  maphash.Seed
}

type counter[K comparable] struct {
	key          K
	count, slack uint64
	seen         bool // scratch of take
}

// newFrequent makes one that keeps n keys, 1 to 16384. All memory is allocated here.
func newFrequent[K comparable](n int, seed maphash.Seed) *frequent[K] {
	places := 4
	for places < 2*n {
		places *= 2
	}
	return &frequent[K]{entries: make([]counter[K], n), index: make([]uint16, places), seed: seed}
}

func (f *frequent[K]) reset() {
	clear(f.index)
	f.n, f.floor, f.cursor, f.least = 0, 0, 0, 0
}

// place returns where in the index key is, or would be.
func (f *frequent[K]) place(key K) int {
	mask := len(f.index) - 1
	i := int(maphash.Comparable(f.seed, key)) & mask
	for f.index[i] != 0 && f.entries[f.index[i]-1].key != key {
		i = (i + 1) & mask
	}
	return i
}

// find returns the entry of key, -1 when it is not kept.
func (f *frequent[K]) find(key K) int { return int(f.index[f.place(key)]) - 1 }

// add counts key once. It does not allocate.
func (f *frequent[K]) add(key K) {
	if e := f.find(key); e >= 0 {
		f.entries[e].count++
		return
	}
	e := f.slot()
	f.put(e, counter[K]{key: key, count: 1 + f.floor, slack: f.floor})
}

// slot returns an entry that is free, if need be because its key has been given up.
func (f *frequent[K]) slot() int {
	if f.n < len(f.entries) {
		f.n++
		return f.n - 1
	}
	e := f.rarest()
	f.floor = max(f.floor, f.entries[e].count)
	f.forget(f.entries[e].key)
	return e
}

// put keeps a key that is not kept in a free entry.
func (f *frequent[K]) put(e int, c counter[K]) {
	f.entries[e] = c
	f.index[f.place(c.key)] = uint16(e + 1)
	f.least = min(f.least, c.count)
}

// rarest returns an entry with the least count. All entries are in use.
func (f *frequent[K]) rarest() int {
	for {
		if f.least > 0 {
			for range f.entries {
				e := f.cursor
				if f.cursor++; f.cursor == len(f.entries) {
					f.cursor = 0
				}
				if f.entries[e].count <= f.least {
					return e
				}
			}
		}
		f.least = f.entries[0].count
		for i := range f.entries {
			f.least = min(f.least, f.entries[i].count)
		}
	}
}

// forget takes a key off the index, and closes the gap that it leaves among those that
// follow (Knuth 6.4, algorithm R).
func (f *frequent[K]) forget(key K) {
	mask := len(f.index) - 1
	gap := f.place(key)
	for i := (gap + 1) & mask; f.index[i] != 0; i = (i + 1) & mask {
		home := int(maphash.Comparable(f.seed, f.entries[f.index[i]-1].key)) & mask
		if (i-home)&mask >= (i-gap)&mask {
			f.index[gap] = f.index[i]
			gap = i
		}
	}
	f.index[gap] = 0
}

// take adds all that o has counted. What is kept are the keys that have the highest
// counts in both together (Agarwal et al., Mergeable Summaries, §3). It does not allocate.
func (f *frequent[K]) take(o *frequent[K]) {
	missed := f.floor
	for i := range f.n {
		e := &f.entries[i]
		if j := o.find(e.key); j >= 0 {
			e.count += o.entries[j].count
			e.slack += o.entries[j].slack
		} else {
			e.count += o.floor
			e.slack += o.floor
		}
	}
	// Those that f has, too, are done; they must be told apart even when they have
	// been pushed out by others of o.
	for j := range o.n {
		o.entries[j].seen = f.find(o.entries[j].key) >= 0
	}
	f.floor += o.floor
	f.least = 0
	for j := range o.n {
		c := &o.entries[j]
		switch {
		case c.seen:
		case f.n == len(f.entries) && c.count+missed <= f.entries[f.rarest()].count:
			f.floor = max(f.floor, c.count+missed)
		default:
			f.put(f.slot(), counter[K]{key: c.key, count: c.count + missed, slack: c.slack + missed})
		}
	}
}
