package pfsim

import (
	"math"
	"strings"

	"example.org/threatstopd/pfioctl/internal/abi"
)

// An anchor is struct pf_anchor: a node of the tree of rulesets.
type anchor struct {
	name, path string
	parent     *anchor // nil below the main ruleset
	children   int
	calls      int // rules that call it
	rs         ruleset
}

// ruleset is struct pf_ruleset.
type ruleset struct {
	anchor *anchor // nil for the main one

	// Tables that are attached to it, by the count that the kernel keeps.
	tables  int
	topen   bool
	tticket uint32

	active, inactive               []*loadedRule
	activeVersion, inactiveVersion uint32
	open                           bool
}

const (
	anchorNameSize = 64  // PF_ANCHOR_NAME_SIZE
	anchorMaxPath  = 959 // PF_ANCHOR_MAXPATH
)

// findRuleset is pf_find_ruleset.
func (k *Kernel) findRuleset(path string) *ruleset {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return &k.main
	}
	if a := k.anchors[path]; a != nil {
		return &a.rs
	}
	return nil
}

// findOrCreateRuleset is pf_find_or_create_ruleset. Where a component cannot
// be made it returns nil and the ones before it stay, empty, until something
// below them comes and goes.
func (k *Kernel) findOrCreateRuleset(path string) *ruleset {
	path = strings.TrimLeft(path, "/")
	rs := k.findRuleset(path)
	if rs != nil {
		return rs
	}
	// The nearest ancestor that exists, and what is left to create
	// (pf_get_leaf_ruleset).
	rest, above := path, path
	for rs = &k.main; ; {
		i := strings.LastIndexByte(above, '/')
		if i < 0 {
			break
		}
		above = above[:i]
		if r := k.findRuleset(above); r != nil {
			rs, rest = r, path[i:]
			break
		}
	}
	rest = strings.TrimLeft(rest, "/")
	a := rs.anchor
	for rest != "" {
		name, after, more := strings.Cut(rest, "/")
		if a = k.createAnchor(a, name); a == nil {
			return nil
		}
		if !more {
			break
		}
		rest = after
	}
	return &a.rs
}

// createAnchor is pf_create_anchor.
func (k *Kernel) createAnchor(parent *anchor, name string) *anchor {
	if name == "" || len(name) >= anchorNameSize || parent != nil && len(parent.path) >= anchorMaxPath {
		return nil
	}
	path := name
	if parent != nil {
		path = parent.path + "/" + name
	}
	path = path[:min(len(path), abi.AnchorPathSize-1)]
	l := abi.LimitAnchors
	if k.anchors[path] != nil || uint64(k.inUse[l]) >= uint64(k.hard[l]) {
		return nil
	}
	k.inUse[l]++
	a := &anchor{name: name, path: path, parent: parent}
	a.rs.anchor = a
	k.anchors[path] = a
	if parent != nil {
		parent.children++
	}
	return a
}

// removeIfEmpty is pf_remove_if_empty_ruleset: it removes the anchor when
// nothing is left in it, and then those above it.
func (k *Kernel) removeIfEmpty(rs *ruleset) {
	for rs.anchor != nil {
		a := rs.anchor
		if k.anchors[a.path] != a || a.children > 0 || a.calls > 0 || rs.tables > 0 || rs.topen ||
			len(rs.active) > 0 || len(rs.inactive) > 0 || rs.open {
			return
		}
		delete(k.anchors, a.path)
		k.inUse[abi.LimitAnchors]--
		if a.parent == nil {
			return
		}
		a.parent.children--
		rs = &a.parent.rs
	}
}

// attachTable is pfr_attach_table: what loading a rule does for a table that it
// names. It returns nil when a limit is reached.
func (k *Kernel) attachTable(rs *ruleset, name string) *ktable {
	var p abi.PfrTable
	copy(p.Name[:len(p.Name)-1], name)
	if rs.anchor != nil {
		copy(p.Anchor[:len(p.Anchor)-1], rs.anchor.path)
	}
	t := k.lookupTable(&p)
	if t == nil {
		if t = k.createTable(&p, k.gettime(), true); t == nil {
			return nil
		}
		if rs.anchor != nil {
			p.Anchor = [abi.AnchorPathSize]byte{}
			root := k.lookupTable(&p)
			if root == nil {
				if root = k.createTable(&p, 0, true); root == nil {
					k.destroyTable(t)
					return nil
				}
				k.insertTable(root)
			}
			t.root = root
		}
		k.insertTable(t)
	}
	t.refs[refRule]++
	if t.refs[refRule] == 1 {
		k.setTableFlags(t, t.flags|flagReferenced)
	}
	return t
}

// detachTable is pfr_detach_table.
func (k *Kernel) detachTable(t *ktable) {
	if t.refs[refRule] <= 0 {
		return
	}
	t.refs[refRule]--
	if t.refs[refRule] == 0 {
		k.setTableFlags(t, t.flags&^flagReferenced)
	}
}

// unlimited is what a pool enforces before a limit is set.
const unlimited = math.MaxUint32
