package sources

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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

// Save writes the addresses of the names and the copies of the lists for another process: a line of JSON
// with the addresses, and for each list a line of JSON and its entries as encoding/binary lays them out.
func (s *Sources) Save(w io.Writer) error {
	b := bufio.NewWriterSize(w, 64<<10)
	text := json.NewEncoder(b)
	err := text.Encode(s.names)
	for _, l := range s.lists {
		x := saved{Kind: l.Kind, Name: l.Name, Fetched: l.Fetched, Failures: l.Failures}
		var entries [][]dnsfetch.Entry
		if l.List != nil {
			header := *l.List
			entries, x.Entries = header.Chunks, l.Len()
			header.Chunks, header.Failed = nil, nil
			x.Copy = &header
		}
		err = errors.Join(err, text.Encode(x))
		for _, c := range entries {
			err = errors.Join(err, binary.Write(b, binary.LittleEndian, c))
		}
	}
	return errors.Join(err, b.Flush())
}

// Load reads what Save has written. Lists that are not configured are left out. With an error nothing is
// taken.
func (s *Sources) Load(r io.Reader) error {
	b := bufio.NewReaderSize(r, 64<<10)
	if c, err := b.ReadByte(); err == nil && c != '\n' { // the end of the line before
		b.UnreadByte()
	}
	next := func(into any) error {
		line, err := b.ReadBytes('\n')
		if err != nil {
			return err
		}
		return json.Unmarshal(line, into)
	}
	var names map[string]Name
	err := next(&names)
	var all []List
	for err == nil {
		if _, err = b.Peek(1); err == io.EOF {
			break
		}
		var x saved
		if err = next(&x); err == nil && x.Copy != nil {
			x.Copy.Chunks = [][]dnsfetch.Entry{make([]dnsfetch.Entry, x.Entries)}
			err = binary.Read(b, binary.LittleEndian, x.Copy.Chunks[0])
		}
		l := List{Kind: x.Kind, Name: x.Name, Fetched: x.Fetched, Failures: x.Failures, List: x.Copy}
		if x.Copy != nil {
			l.entries = x.Copy
		}
		all = append(all, l)
	}
	if err != io.EOF {
		return fmt.Errorf("lists: %w", err)
	}
	for _, l := range all {
		if own := s.list(l.Kind, l.Name); own != nil {
			*own = l
		}
	}
	maps.Copy(s.names, names)
	return nil
}
