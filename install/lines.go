package install

import (
	"slices"
	"strings"
)

// splitLines cuts text into its lines, each with its newline; the last may have none.
func splitLines(text string) []string {
	return slices.Collect(strings.Lines(text))
}

// without returns text without the lines that drop names, and those lines.
func without(text string, drop func(line string) bool) (rest string, dropped []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if drop(bare(line)) {
			dropped = append(dropped, bare(line))
		} else {
			b.WriteString(line)
		}
	}
	return b.String(), dropped
}

// gone returns the indices of the lines of before that after, which was made by taking lines out of it, does not
// have.
func gone(before, after []string) []int {
	var all []int
	for i, line := range before {
		if len(after) > 0 && bare(after[0]) == bare(line) {
			after = after[1:]
		} else {
			all = append(all, i)
		}
	}
	return all
}

func bare(line string) string { return strings.TrimSuffix(line, "\n") }

// giveBack puts the lines that before has and after has not back into now, which was after until somebody changed
// it. Each comes behind the line that it was behind, as far as that is still there. Lines that now has already are
// not doubled, and no line of it is changed.
func giveBack(now, before, after string) string {
	if now == after {
		return before
	}
	lines, old := splitLines(now), splitLines(before)
	if n := len(lines); n > 0 {
		lines[n-1] = bare(lines[n-1]) + "\n"
	}
	last := func(line string) int { // its last place in lines, -1 for none
		i := len(lines) - 1
		for i >= 0 && bare(lines[i]) != bare(line) {
			i--
		}
		return i
	}
	for _, i := range gone(old, splitLines(after)) {
		if last(old[i]) >= 0 {
			continue
		}
		at := len(lines)
		for j := i - 1; j >= 0; j-- {
			if k := last(old[j]); k >= 0 && strings.TrimSpace(old[j]) != "" {
				at = k + 1
				break
			}
		}
		lines = slices.Insert(lines, at, bare(old[i])+"\n")
	}
	return strings.Join(lines, "")
}

// replaceLine replaces the first line that is was. It reports whether there is one.
func replaceLine(text, was, becomes string) (string, bool) {
	lines := splitLines(text)
	i := slices.IndexFunc(lines, func(line string) bool { return bare(line) == was })
	if i < 0 {
		return text, false
	}
	lines[i] = becomes + lines[i][len(was):]
	return strings.Join(lines, ""), true
}
