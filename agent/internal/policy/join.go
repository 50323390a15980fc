package policy

// join finds the smallest table for ranges of addresses that are in it or
// not.
//
// It is the optimal routing table construction (Draves, King, Venkatachary,
// Zill: Constructing Optimal IP Routing Tables, INFOCOM 1999) for two next
// hops, "out" and "in", of which the first is what the root begins with. ORTC
// goes over a binary trie three times; with two next hops one pass from the
// leaves up will do. For every node one knows the set of verdicts that the
// nodes above may hand down to it at no extra cost: for a leaf its own;
// above, what both children have in common, or if that is nothing, either. A
// node with one verdict in its set needs an entry exactly if it is handed
// down the other; a node with both just takes what it is handed. So when two
// children differ, their entries remain undecided until some node above
// settles for one verdict: then those that say the same are dropped, and the
// others are final.
//
// A node may be fixed: it has an entry of its own, in the table, whatever it
// is handed. Its children are handed "in", and to those above it is all the
// same.
//
// As a node that has settled is from outside like a leaf, only nodes with
// both verdicts need to be known, beside runs of addresses with one. Where
// two runs meet, a node arises as soon as both of its halves are there; and a
// node with both verdicts does not get past two runs before it has settled.
// So the trie need not be gone through level by level: the work grows with
// the number of ranges, whatever the length of an address.
type join struct {
	stack []span // without gaps, in order
	last  u128   // the last address of the last one
	fixed []fixed
	wait  []entry     // undecided entries, those of a node from span.wait on
	out   func(entry) // takes final entries, in no useful order
}

// A verdict is one bit, so that sets of them are verdicts too.
type verdict uint8

const (
	out    verdict = 1
	in     verdict = 2
	either verdict = out | in
)

// entry is an entry of a table, negated if its verdict is out.
type entry struct {
	addr    u128
	bits    uint8
	verdict verdict
	list    ListID
}

// span is a node with both verdicts, or a run up to the next span with one.
type span struct {
	addr    u128
	wait    int // length of join.wait before the node
	verdict verdict
	bits    uint8 // of a node
}

// fixed is a fixed node that is not complete yet.
type fixed struct {
	bits  int // prefix length; -1 stands above the root
	floor int // length of join.stack before it
}

// begin prepares for addresses from any on. What there was before is
// forgotten.
func (j *join) begin(out func(entry)) {
	j.stack = j.stack[:0]
	j.wait = j.wait[:0]
	j.fixed = append(j.fixed[:0], fixed{bits: -1})
	j.out = out
}

// add adds the addresses from first to last, which follow those added before.
func (j *join) add(first, last u128, v verdict) {
	j.last = last
	j.stack = append(j.stack, span{addr: first, verdict: v})
	j.reduce()
}

// fix begins a fixed node, which is what is added until unfix.
func (j *join) fix(bits uint8) {
	j.fixed = append(j.fixed, fixed{int(bits), len(j.stack)})
}

// unfix ends the last fixed node that was begun. Something in it must be in
// the table.
func (j *join) unfix() {
	f := j.fixed[len(j.fixed)-1]
	j.fixed = j.fixed[:len(j.fixed)-1]
	addr := j.stack[f.floor].addr
	// There is one run for both halves, or a node or run for each.
	half := uint8(f.bits) + 1
	for i := len(j.stack) - 1; i >= f.floor; i-- {
		switch s := j.stack[i]; s.verdict {
		case either:
			j.decide(s.wait, in)
		case out:
			j.out(entry{addr: s.addr, bits: half, verdict: out})
		}
	}
	if len(j.stack) == f.floor+1 && j.stack[f.floor].verdict == out {
		j.out(entry{addr: addr.with(half - 1), bits: half, verdict: out})
	}
	j.stack = append(j.stack[:f.floor], span{addr, len(j.wait), either, uint8(f.bits)})
	j.reduce()
}

// end ends the root, when all addresses of the family have been added.
func (j *join) end() {
	switch s := j.stack[0]; s.verdict {
	case either:
		j.decide(s.wait, out)
	case in:
		j.out(entry{verdict: in})
	}
	j.stack = j.stack[:0]
}

// decide makes the undecided entries from place i on final under a node that
// settles for v.
func (j *join) decide(i int, v verdict) {
	for _, e := range j.wait[i:] {
		if e.verdict != v {
			j.out(e)
		}
	}
	j.wait = j.wait[:i]
}

// reduce joins the last span with what is before it as far as it can be.
func (j *join) reduce() {
	f := j.fixed[len(j.fixed)-1]
	for {
		top := len(j.stack) - 1
		if top <= f.floor {
			return
		}
		s, t := &j.stack[top-1], j.stack[top]
		switch {
		case t.verdict == either:
			// A right child may join its sibling, a node or part of a run.
			if int(t.bits) <= f.bits+1 || !t.addr.bit(t.bits-1) {
				return
			}
			if s.verdict == either {
				if s.bits != t.bits {
					return
				}
				s.bits--
			} else {
				if t.addr.without(t.bits - 1).less(s.addr) {
					return
				}
				j.decide(t.wait, s.verdict)
			}
			j.stack = j.stack[:top]

		case s.verdict == t.verdict:
			// One run.
			j.stack = j.stack[:top]

		case s.verdict == either:
			// A left child, whose sibling may be part of the run.
			if int(s.bits) <= f.bits+1 || s.addr.bit(s.bits-1) || j.last.less(s.addr.last(s.bits-1)) {
				return
			}
			j.decide(s.wait, t.verdict)
			s.verdict = t.verdict
			j.stack = j.stack[:top]

		default:
			// Two runs meet, in the middle of a node.
			half := uint8(128 - t.addr.trailingZeros())
			n := span{t.addr.without(half - 1), len(j.wait), either, half - 1}
			last, end := j.last, n.addr.last(n.bits)
			if int(n.bits) <= f.bits || n.addr.less(s.addr) || last.less(end) {
				return
			}
			j.wait = append(j.wait,
				entry{addr: n.addr, bits: half, verdict: s.verdict},
				entry{addr: t.addr, bits: half, verdict: t.verdict})
			if s.addr == n.addr {
				top--
			}
			// The node first, then what remains of the run.
			j.stack = append(j.stack[:top], n)
			j.last = end
			j.reduce()
			if end == last {
				return
			}
			t.addr = end.next()
			j.stack = append(j.stack, t)
			j.last = last
		}
	}
}
