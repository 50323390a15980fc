package config

import "strings"

// Example returns a commented threatstop.conf: every key once, what every
// installation sets as a line to fill in, the others behind a # with their defaults.
func Example() string {
	var b strings.Builder
	b.WriteString(exampleHead)
	for i := range keys {
		k := &keys[i]
		if k.Section != "" {
			b.WriteString("\n#\n# " + k.Section + ".\n#\n")
		}
		b.WriteString("\n")
		wrap(&b, k.Doc)
		wrap(&b, "Allowed: "+k.Allowed+".")
		value := k.Default
		if value == "" {
			value = k.Example
		}
		if !k.filled {
			b.WriteString("#")
		}
		if k.list || k.shown != nil {
			// Owners put more into these: blanks, an &.
			value = `"` + value + `"`
		}
		b.WriteString(k.Name + "=" + value + "\n")
	}
	return b.String()
}

const exampleHead = `# threatstop.conf: the configuration of threatstopd(8).
#
# KEY=value, as in a shell: quotes around a value with blanks or & in it, no blanks
# around the =, and $KEY for the value of a key further up. Nothing is run.
# The lines that begin with #KEY= show the defaults. "threatstopd -n" checks the file.
`

// wrap writes text as comment lines.
func wrap(b *strings.Builder, text string) {
	const width = 80
	n := 0
	for _, w := range strings.Fields(text) {
		if n > 0 && n+1+len(w) > width {
			b.WriteString("\n")
			n = 0
		}
		if n == 0 {
			b.WriteString("#")
			n = 1
		}
		b.WriteString(" " + w)
		n += 1 + len(w)
	}
	b.WriteString("\n")
}
