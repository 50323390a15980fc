package sources

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/dnsfetch"
)

// saved is a list as Save writes it, before its entries.
type saved struct {
	Kind     policy.Kind
	Name     string
	Fetched  time.Time
	Failures int
	Copy     *dnsfetch.List // without entries; nil: there is none
	Entries  int
}

// Addresses returns the addresses of the names.
func (s *Sources) Addresses() map[string][]netip.Addr {
	all := make(map[string][]netip.Addr)
	for name, n := range s.names {
		all[name] = n.Addrs
	}
	return all
}

// Save writes the copies of the lists for another process: for each a line of JSON, and its entries as
// encoding/binary lays them out.
func (s *Sources) Save(w io.Writer) error {
	b := bufio.NewWriterSize(w, 64<<10)
	for _, l := range s.lists {
		x := saved{Kind: l.Kind, Name: l.Name, Fetched: l.Fetched, Failures: l.Failures}
		var entries [][]dnsfetch.Entry
		if l.List != nil {
			header := *l.List
			entries, x.Entries = header.Chunks, l.Len()
			header.Chunks, header.Failed = nil, nil
			x.Copy = &header
		}
		text, err := json.Marshal(x)
		if err != nil {
			return err
		}
		b.Write(append(text, '\n'))
		for _, c := range entries {
			if err := binary.Write(b, binary.LittleEndian, c); err != nil {
				return err
			}
		}
	}
	return b.Flush()
}

// Load reads what Save has written, and takes the addresses of names. Lists that are not configured are
// left out. With an error nothing is taken.
func (s *Sources) Load(r io.Reader, names map[string][]netip.Addr) error {
	b := bufio.NewReaderSize(r, 64<<10)
	if c, err := b.ReadByte(); err == nil && c != '\n' { // the end of the line before
		b.UnreadByte()
	}
	var all []List
	for {
		line, err := b.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		var x saved
		if err == nil {
			err = json.Unmarshal(line, &x)
		}
		if err != nil {
			return fmt.Errorf("lists: %w", err)
		}
		l := List{Kind: x.Kind, Name: x.Name, Fetched: x.Fetched, Failures: x.Failures, List: x.Copy}
		if x.Copy != nil {
			entries := make([]dnsfetch.Entry, x.Entries)
			if err := binary.Read(b, binary.LittleEndian, entries); err != nil {
				return fmt.Errorf("entries of %s: %w", l.Key(), err)
			}
			x.Copy.Chunks = [][]dnsfetch.Entry{entries}
		}
		all = append(all, l)
	}
	for i, l := range s.lists {
		if j := slices.IndexFunc(all, func(x List) bool { return x.Kind == l.Kind && x.Name == l.Name }); j >= 0 {
			s.lists[i] = &all[j]
			if all[j].List != nil {
				all[j].entries = &entries{all[j].List}
			}
		}
	}
	for name, addrs := range names {
		s.names[name] = Name{Addrs: addrs}
	}
	return nil
}
