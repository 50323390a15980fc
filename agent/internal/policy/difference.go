package policy

import "net/netip"

// Difference returns the smallest table of the addresses that new has and old does not, except those in
// own. A nil Set is an empty one.
func Difference(new, old *Set, own []netip.Addr) (*Set, error) {
	var except []Exception
	for _, a := range own {
		if a = a.Unmap().WithZone(""); a.IsValid() {
			except = append(except, Exception{netip.PrefixFrom(a, a.BitLen()), "own address"})
		}
	}
	p, err := Build([]List{{"new", Block, new}, {"old", Allow, old}}, except, Options{Aggregate: true})
	if err != nil {
		return nil, err
	}
	p.Block.lists = p.Block.lists[:1] // all of it is in new
	return p.Block, nil
}
