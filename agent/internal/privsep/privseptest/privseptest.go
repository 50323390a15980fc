// Package privseptest has what tests of other packages need of privsep: a Confiner that
// remembers, and the table of roles as the manual has it.
package privseptest

import (
	"fmt"
	"strings"
	"sync"

	"example.org/threatstopd/agent/internal/privsep"
)

// Recorder is a Confiner that confines nothing and remembers what it would have done on
// OpenBSD. The zero value is ready for use, from several goroutines too: roles in process
// share one.
type Recorder struct {
	mu    sync.Mutex
	steps map[string][][]string
}

// Confine notes the steps. It fails as the real one would for a role that is not in the
// table, and for paths that are missing or not absolute.
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

// Steps returns what each process of a role did, in the order in which they came.
func (r *Recorder) Steps(role string) [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]string(nil), r.steps[role]...)
}

// The manual's table stands between these lines.
const (
	ManualBegin = `.\" What follows is made from privsep.Roles.`
	ManualEnd   = `.\" End of what is made from privsep.Roles.`
)

// Manual returns the table of roles as mdoc(7), as it stands in threatstopd.8.
func Manual() string {
	var b strings.Builder
	b.WriteString(ManualBegin + "\n.Bl -tag -width Ds\n")
	for _, r := range privsep.Roles {
		fmt.Fprintf(&b, ".It %s\n", title(r.Name))
		if r.User == "USER" {
			b.WriteString("As\n.Va USER .\n")
		} else {
			fmt.Fprintf(&b, "As %s.\n", r.User)
		}
		switch {
		case r.Unpledged != "":
			b.WriteString(sentence("Not pledged: " + r.Unpledged))
		case r.NamePromises != "":
			fmt.Fprintf(&b, "Promises\n.Dq %s ,\nand\n.Dq %s\nwhen host names are looked up.\n", r.Promises, r.NamePromises)
		default:
			fmt.Fprintf(&b, "Promises\n.Dq %s .\n", r.Promises)
		}
		b.WriteString(sees(r.Unveil))
		if len(r.Holds) > 0 {
			b.WriteString(sentence("Holds " + strings.Join(r.Holds, "; ")))
		}
		for s := range strings.SplitSeq("An attacker in it can "+strings.TrimSuffix(r.Can, "."), ". ") {
			b.WriteString(sentence(s))
		}
	}
	b.WriteString(".El\n" + ManualEnd + "\n")
	return b.String()
}

// title is the head of an item: a process, or options.
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

// sees names the paths that a process sees.
func sees(paths []privsep.Path) string {
	if paths == nil {
		return "Sees all files.\n"
	}
	if len(paths) == 0 {
		return "Sees no file.\n"
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
		fmt.Fprintf(&b, " Pq %s", p.Permissions)
		if p.Names {
			b.WriteString(" for host names")
		}
		if i < len(paths)-1 {
			b.WriteString(" ,\n")
		} else {
			b.WriteString(" .\n")
		}
	}
	return b.String()
}

// width is how long a line of text may be; mandoc -Tlint wants less than 80.
const width = 76

// sentence returns text as lines of mdoc, with its full stop. Nothing that the table has
// begins with what would make a line a macro.
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
