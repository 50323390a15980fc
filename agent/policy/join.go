package policy

// join finds the smallest table for a sequence of blocks that are in it or not.
//
// It is the optimal routing table construction (Draves, King, Venkatachary,
// Zill: Constructing Optimal IP Routing Tables, INFOCOM 1999) for two next
// hops, "not in the table" and "in the table", of which the first is the default of the
// root. ORTC goes over the binary trie three times; with two
// next hops one pass from the leaves up does. For every node one knows the set
// of verdicts that a node above may hand down to it at no extra cost:
// in a leaf its own; above, what both children have in common, or if that is
// nothing then either. A node with one verdict in the set needs an entry exactly if the node
// above hands down the other. A node with both takes what it is handed. So the entries of
// the children stay undecided until a node above has settled for one
// verdict; then those that say the same are dropped and the others are final.
//
// A node may be fixed: it will have an entry of its own, in the table, whatever comes from above. It hands
// down "in" to its children, and costs those above nothing.
//
// Blocks come in ascending order without gaps. The stack holds finished nodes, and siblings
// join as soon as both are there, so it is never deeper than twice the length of an address.
type join struct {
	stack []node
	fixed []fixed
	// wait has the undecided entries, those of a node together, from node.wait on.
	wait []entry
	// out takes the final entries, in no useful order.
	out func(entry)
}

// A verdict is one bit, so that sets of them are numbers too.
type verdict uint8

const (
	out    verdict = 1
	in     verdict = 2
	either verdict = out | in
)

type entry struct {
	addr    u128
	bits    uint8
	verdict verdict // in, or out for a negated entry
	list    ListID
}

type node struct {
	entry     // verdict may be either; list has no meaning then
	wait  int // length of join.wait before this node
}

type fixed struct {
	bits  int // prefix length, -1 for none
	floor int // length of join.stack before
}

// begin prepares for blocks from the first address on. Entries left from before are forgotten.
func (j *join) begin(out func(entry)) {
	j.stack = j.stack[:0]
	j.wait = j.wait[:0]
	j.fixed = append(j.fixed[:0], fixed{bits: -1})
	j.out = out
}

// add adds the addresses from first to last, which follow those added before.
func (j *join) add(first, last u128, v verdict, l ListID) {
	for {
		// The largest block that begins at first and fits.
		size := first.trailingZeros()
		if n := last.minus(first).next(); n != (u128{}) { // 0: all of the numbers
			size = min(size, n.bitLen()-1)
		}
		n := node{entry{first, uint8(128 - size), v, l}, len(j.wait)}
		end := first.last(n.bits)
		j.push(n)
		if end == last {
			return
		}
		first = end.next()
	}
}

// fix begins a fixed node; what is added until unfix makes it up.
func (j *join) fix(bits uint8) {
	j.fixed = append(j.fixed, fixed{int(bits), len(j.stack)})
}

// unfix ends the last fixed node begun. Something in it must be in the table.
func (j *join) unfix() {
	f := j.fixed[len(j.fixed)-1]
	j.fixed = j.fixed[:len(j.fixed)-1]
	// Either one block, which is in the table, or two halves, which have not joined.
	n := j.stack[f.floor]
	for i := len(j.stack) - 1; i >= f.floor; i-- {
		j.settle(j.stack[i], in)
	}
	j.stack = j.stack[:f.floor]
	n.bits, n.verdict, n.list = uint8(f.bits), either, NoList
	j.push(n)
}

// end finishes when the last address has been added.
func (j *join) end() {
	j.settle(j.stack[0], out)
	j.stack = j.stack[:0]
}

// settle hands v down to a node from above.
func (j *join) settle(n node, v verdict) {
	switch {
	case n.verdict == either:
		j.decide(n.wait, v)
	case n.verdict != v:
		j.out(n.entry)
	}
}

// decide makes the undecided entries from index i on final under a node with verdict v.
func (j *join) decide(i int, v verdict) {
	for _, e := range j.wait[i:] {
		if e.verdict != v {
			j.out(e)
		}
	}
	j.wait = j.wait[:i]
}

func (j *join) push(n node) {
	f := j.fixed[len(j.fixed)-1]
	for len(j.stack) > f.floor && int(n.bits)-1 > f.bits {
		top := len(j.stack) - 1
		l := j.stack[top]
		if l.bits != n.bits || !n.addr.bit(n.bits-1) {
			break
		}
		j.stack = j.stack[:top]
		v := l.verdict & n.verdict
		switch v {
		case 0: // then both are leaves, or settled
			v = either
			j.wait = append(j.wait, l.entry, n.entry)
		case in, out:
			j.decide(l.wait, v)
		}
		if l.verdict == v {
			n.list = l.list
		}
		n.addr, n.bits, n.verdict, n.wait = l.addr, n.bits-1, v, l.wait
	}
	j.stack = append(j.stack, n)
}
