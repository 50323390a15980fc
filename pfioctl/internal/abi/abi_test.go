package abi

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"testing"

	"example.org/threatstopd/pfioctl/internal/abi/measured"
)

//go:embed abi.go
var abiSource string

// bitsImporter gives abi.go the one thing it imports, for an architecture.
type bitsImporter int

func (bits bitsImporter) Import(path string) (*types.Package, error) {
	if path == "unsafe" {
		return types.Unsafe, nil
	}
	if path != "math/bits" {
		return nil, fmt.Errorf("abi.go imports %s: its layout is not known for other architectures", path)
	}
	p := types.NewPackage(path, "bits")
	p.Scope().Insert(types.NewConst(token.NoPos, p, "UintSize", types.Typ[types.UntypedInt], constant.MakeInt64(int64(bits))))
	p.MarkComplete()
	return p, nil
}

// typesFor checks abi.go as a compiler for an architecture does.
func typesFor(t *testing.T, a Arch) (*types.Package, types.Sizes) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "abi.go", abiSource, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	sizes := types.SizesFor("gc", a.Name)
	conf := types.Config{Importer: bitsImporter(8 * a.Pointer), Sizes: sizes}
	p, err := conf.Check("abi", fset, []*ast.File{file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p, sizes
}

// The structs that Go code fills in must have the kernel's layout on every
// architecture, whichever one this test runs on.
func TestStructsOnEveryArchitecture(t *testing.T) {
	const none = ""
	structs := map[string]struct {
		c      string
		fields map[string]string // Go name to C name; none: only padding may follow
	}{
		"PfrAddr": {"pfr_addr", map[string]string{
			"Addr": "pfra_u", "Ifname": "pfra_ifname", "States": "pfra_states", "Weight": "pfra_weight",
			"AF": "pfra_af", "Net": "pfra_net", "Not": "pfra_not", "Fback": "pfra_fback", "Type": "pfra_type", "_": none,
		}},
		"PfrTable": {"pfr_table", map[string]string{
			"Anchor": "pfrt_anchor", "Name": "pfrt_name", "Flags": "pfrt_flags", "Fback": "pfrt_fback", "_": none,
		}},
		"PfiocTable": {"pfioc_table", map[string]string{
			"Table": "pfrio_table", "Buffer": "pfrio_buffer", "Esize": "pfrio_esize", "Size": "pfrio_size",
			"Size2": "pfrio_size2", "Nadd": "pfrio_nadd", "Ndel": "pfrio_ndel", "Nchange": "pfrio_nchange",
			"Flags": "pfrio_flags", "Ticket": "pfrio_ticket",
		}},
		"PfiocIface": {"pfioc_iface", map[string]string{
			"Name": "pfiio_name", "Buffer": "pfiio_buffer", "Esize": "pfiio_esize", "Size": "pfiio_size", "Nzero": "pfiio_nzero", "Flags": "pfiio_flags",
		}},
		"PfiocStates":  {"pfioc_states", map[string]string{"Len": "ps_len", "Buffer": "ps_u"}},
		"PfiocLimit":   {"pfioc_limit", map[string]string{"Index": "index", "Limit": "limit"}},
		"PfiocRuleset": {"pfioc_ruleset", map[string]string{"Nr": "nr", "Path": "path", "Name": "name"}},
		"PfiocTrans":   {"pfioc_trans", map[string]string{"Size": "size", "Esize": "esize", "Array": "array"}},
		"PfiocTransE":  {"pfioc_trans_e", map[string]string{"Type": "type", "Anchor": "anchor", "Ticket": "ticket"}},
	}
	vec := measured.Read()
	for _, a := range Arches {
		for _, release := range []string{"7.2", "7.5", "7.8"} {
			want := vec.Of(release, a.Name).Structs
			t.Run(release+"/"+a.Name, func(t *testing.T) {
				p, sizes := typesFor(t, a)
				for name, s := range structs {
					st, ok := p.Scope().Lookup(name).Type().Underlying().(*types.Struct)
					if !ok {
						t.Fatalf("%s is no struct", name)
					}
					c := want[s.c]
					if c.Size == 0 {
						t.Fatalf("no measure of %s", s.c)
					}
					if got := sizes.Sizeof(st); got != int64(c.Size) {
						t.Errorf("%s has %d bytes, %s has %d", name, got, s.c, c.Size)
					}
					fields := make([]*types.Var, st.NumFields())
					for i := range fields {
						fields[i] = st.Field(i)
					}
					for i, at := range sizes.Offsetsof(fields) {
						cname, ok := s.fields[fields[i].Name()]
						if !ok {
							t.Errorf("%s.%s stands for nothing", name, fields[i].Name())
						}
						if cname == none {
							continue
						}
						if got := [2]int{int(at), int(sizes.Sizeof(fields[i].Type()))}; got != c.Fields[cname] {
							t.Errorf("%s.%s: offset and size %v; %s.%s has %v", name, fields[i].Name(), got, s.c, cname, c.Fields[cname])
						}
					}
				}
				// pfioc_rule was measured apart.
				head := p.Scope().Lookup("PfiocRuleHead").Type()
				if got := sizes.Sizeof(head); got != 2060 {
					t.Errorf("PfiocRuleHead has %d bytes", got)
				}
			})
		}
	}
}

func TestConstants(t *testing.T) {
	vec := measured.Read()
	for set, names := range map[string]map[string]int{
		"table_flags": {
			"PFR_TFLAG_PERSIST": int(TablePersist), "PFR_TFLAG_CONST": int(TableConst),
			"PFR_TFLAG_ACTIVE": int(TableActive), "PFR_TFLAG_INACTIVE": int(TableInactive),
			"PFR_TFLAG_REFERENCED": int(TableReferenced), "PFR_TFLAG_REFDANCHOR": int(TableRefdAnchor),
			"PFR_TFLAG_COUNTERS": int(TableCounters), "PFR_TFLAG_USRMASK": int(TableUserFlags),
		},
		"request_flags": {
			"PFR_FLAG_DUMMY": int(FlagDummy), "PFR_FLAG_FEEDBACK": int(FlagFeedback),
			"PFR_FLAG_CLSTATS": int(FlagClrStats), "PFR_FLAG_ADDRSTOO": int(FlagAddrsToo),
			"PFR_FLAG_REPLACE": int(FlagReplace), "PFR_FLAG_ALLRSETS": int(FlagAllRsets),
		},
		"feedback": {
			"PFR_FB_NONE": int(FeedbackNone), "PFR_FB_MATCH": int(FeedbackMatch), "PFR_FB_ADDED": int(FeedbackAdded),
			"PFR_FB_DELETED": int(FeedbackDeleted), "PFR_FB_CHANGED": int(FeedbackChanged),
			"PFR_FB_CLEARED": int(FeedbackCleared), "PFR_FB_DUPLICATE": int(FeedbackDuplicate),
			"PFR_FB_NOTMATCH": int(FeedbackNotMatch), "PFR_FB_CONFLICT": int(FeedbackConflict),
			"PFR_FB_NOCOUNT": int(FeedbackNoCount),
		},
		"limits": {
			"PF_LIMIT_STATES": int(LimitStates), "PF_LIMIT_SRC_NODES": int(LimitSrcNodes), "PF_LIMIT_FRAGS": int(LimitFrags),
			"PF_LIMIT_TABLES": int(LimitTables), "PF_LIMIT_TABLE_ENTRIES": int(LimitTableEntries),
			"PF_LIMIT_PKTDELAY_PKTS": int(LimitPktDelay), "PF_LIMIT_ANCHORS": int(LimitAnchors), "PF_LIMIT_MAX": len(LimitNames),
		},
		"iface_flags":      {"PFI_IFLAG_SKIP": IfaceSkip},
		"address_families": {"AF_INET": AFInet, "AF_INET6": AFInet6},
		"name_sizes": {
			"PF_TABLE_NAME_SIZE": TableNameSize, "PATH_MAX": AnchorPathSize, "IFNAMSIZ": IfNameSize,
			"PF_TAG_NAME_SIZE": TagNameSize, "PF_RULE_LABEL_SIZE": RuleLabelSize, "PF_ANCHOR_NAME_SIZE": len(PfiocRuleset{}.Name),
		},
	} {
		for name, got := range names {
			if want, ok := vec.Const[set][name]; !ok || got != want {
				t.Errorf("%s = %d, want %d", name, got, want)
			}
		}
	}
}
