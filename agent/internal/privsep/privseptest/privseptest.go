// Package privseptest is what tests of other packages need of privsep: a Confiner that records its
// steps, and the table of roles as it stands in the manual.
package privseptest

import (
	"fmt"
	"strings"
	"sync"

	"example.org/threatstopd/agent/internal/privsep"
)

// Recorder is a Confiner that confines nothing and records what it would have done on OpenBSD. The
// zero value is ready for use. It may be used by several goroutines: roles in one process share it.
type Recorder struct {
	mu    sync.Mutex
	steps map[string][][]string
}

// Confine records the steps. It fails as the real one does for a role that is not in the table, and
// for paths that are missing or not absolute.
func (r *Recorder) Confine(role string, c privsep.Confinement) error {
	steps, err := privsep.Plan(role, c)
	if err != nil {
		return err
	}
	if c.AsUser != nil {
		c.AsUser()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.steps == nil {
		r.steps = make(map[string][][]string)
	}
	r.steps[role] = append(r.steps[role], steps)
	return nil
}

// Steps returns the steps of each process of a role, in the order of their calls.
func (r *Recorder) Steps(role string) [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]string(nil), r.steps[role]...)
}

// The manual's table is between these lines.
const (
	ManualBegin = `.\" Generated from privsep.Roles: see privseptest.Manual.`
	ManualEnd   = `.\" End of what is generated.`
)

// Manual returns the table of roles as mdoc(7), as it stands in threatstopd.8: the user and promises of
// each process, then what else it can reach. Commands that promise only stdio are one sentence.
func Manual() string {
	var b strings.Builder
	b.WriteString(ManualBegin + "\n")
	b.WriteString(".Bl -column \"--sync-now\" \"USER\" \"stdio rpath wpath cpath pf unix\"\n")
	b.WriteString(".It Em Process Ta Em User Ta Em Promises (to look up host names)\n")
	var only []string
	for _, r := range privsep.Roles {
		if r.Promises == "stdio" && len(r.Unveil) == 0 {
			only = append(only, title(r.Name))
			continue
		}
		fmt.Fprintf(&b, ".It %s Ta %s Ta %s\n", title(r.Name), user(r.User), promises(&r))
	}
	b.WriteString(".El\n.Pp\nThe paths that each sees, the descriptors that it holds, and what an attacker\n" +
		"in it could do:\n.Pp\n.Bl -tag -width \"report\" -compact\n")
	for _, r := range privsep.Roles {
		if r.Promises == "stdio" && len(r.Unveil) == 0 {
			continue
		}
		fmt.Fprintf(&b, ".It %s\n%s", title(r.Name), sees(r.Unveil))
		if len(r.Holds) > 0 {
			b.WriteString(sentence("Holds " + strings.Join(r.Holds, ", ")))
		}
		for s := range strings.SplitSeq("Could "+strings.TrimSuffix(r.Can, "."), ". ") {
			b.WriteString(sentence(s))
		}
	}
	b.WriteString(".El\n.Pp\n." + strings.Join(only, " ,\n.") + "\n")
	b.WriteString("promise only stdio once they have read what they print, and see no files.\n" + ManualEnd + "\n")
	return b.String()
}

// title is the name of a process, or of a command's options.
func title(name string) string {
	var parts []string
	for part := range strings.SplitSeq(name, ", ") {
		if option, ok := strings.CutPrefix(part, "-"); ok {
			parts = append(parts, "Fl "+option)
		} else {
			parts = append(parts, "Sy "+part)
		}
	}
	return strings.Join(parts, " , ")
}

func user(name string) string {
	if name == "USER" {
		return "Va USER"
	}
	return "No " + name
}

func promises(r *privsep.Role) string {
	switch {
	case r.Unpledged != "":
		return "No none: " + r.Unpledged
	case r.NamePromises != "":
		return "No " + r.Promises + " Pq " + r.NamePromises
	default:
		return "No " + r.Promises
	}
}

// sees lists the paths that a process sees, those with the same permissions together.
func sees(paths []privsep.Path) string {
	if len(paths) == 0 {
		return "Sees no files.\n"
	}
	var b strings.Builder
	b.WriteString("Sees\n")
	for i, p := range paths {
		switch {
		case p.Key == "":
			b.WriteString(".Pa " + p.Literal)
		case strings.ToUpper(p.Key) == p.Key:
			b.WriteString(".Va " + p.Key)
			if p.Suffix != "" {
				b.WriteString(" Ns Pa " + p.Suffix)
			}
		case strings.Contains(p.Key, " "):
			b.WriteString(".No the " + p.Key)
		default:
			b.WriteString(".Pa " + p.Key)
		}
		last := i == len(paths)-1
		if last || paths[i+1].Permissions != p.Permissions || paths[i+1].Names != p.Names {
			b.WriteString(" Pq " + p.Permissions)
			if p.Names {
				b.WriteString(" for host names")
			}
		}
		if last {
			b.WriteString(" .\n")
		} else {
			b.WriteString(" ,\n")
		}
	}
	return b.String()
}

// width is the maximum length of a line of text; mandoc -Tlint accepts less than 80.
const width = 76

// sentence returns text as lines of mdoc, with a full stop. No word in the table begins with a dot
// or a quote, which would make its line a macro.
func sentence(text string) string {
	var b strings.Builder
	n := 0
	for i, word := range strings.Fields(strings.ReplaceAll(strings.ReplaceAll(text, `\`, `\e`), "-", `\-`)) {
		switch {
		case i == 0:
		case n+1+len(word) > width:
			b.WriteByte('\n')
			n = 0
		default:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	return b.String() + ".\n"
}
