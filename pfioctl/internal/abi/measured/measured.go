// Package measured has sizes, offsets and request numbers of OpenBSD's headers, for
// tests.
package measured

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"maps"
	"strconv"
	"sync"
)

// ABI is what was measured on the headers of each release and architecture.
type ABI struct {
	About    string
	Arch     map[string]Of            // 7.8, by architecture
	Releases map[string]map[string]Of // what is different there, by release
	Rules    map[string]map[string]Rule
	Const    map[string]map[string]int
}

// Of is what was measured for one release on one architecture.
type Of struct {
	Structs map[string]Struct
	Ioctls  map[string]string
	Absent  []string
}

// Struct is a struct's size in bytes, and the offset and size of its members.
type Struct struct {
	Size   int
	Fields map[string][2]int
}

// Rule is struct pf_rule and struct pfioc_rule.
type Rule struct {
	Rule, Ioc, More map[string][2]int // More: from 7.9 on
	RuleSize, IocSz int
	Ioctls          map[string]string
}

//go:embed abi.json.gz
var file []byte

// Read returns all that was measured. It panics if the data cannot be read.
var Read = sync.OnceValue(func() ABI {
	var a ABI
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err == nil {
		err = json.NewDecoder(z).Decode(&a)
	}
	if err != nil {
		panic(err)
	}
	return a
})

// Releases are those that are known.
var Releases = []string{"6.9", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "7.9", "8.0"}

// Stand is the release whose headers stand for another's.
func Stand(release string) string {
	switch release {
	case "6.9", "7.0", "7.1":
		return "7.2"
	}
	return release
}

// Of returns what was measured for a release on an architecture.
func (a ABI) Of(release, arch string) Of {
	out := Of{Structs: map[string]Struct{}, Ioctls: map[string]string{}}
	for _, o := range []Of{a.Arch[arch], a.Releases[Stand(release)][arch]} {
		maps.Copy(out.Structs, o.Structs)
		maps.Copy(out.Ioctls, o.Ioctls)
		for _, k := range o.Absent {
			delete(out.Ioctls, k)
		}
	}
	return out
}

// Number returns the number of a request, 0 for one that the release does not have.
func (o Of) Number(request string) uint {
	n, _ := strconv.ParseUint(o.Ioctls[request], 0, 32)
	return uint(n)
}
