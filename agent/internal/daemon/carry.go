package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"example.org/threatstopd/agent/internal/status"
)

// carryEnv names the descriptor of the carry file to the program that is executed.
const carryEnv = "THREATSTOPD_STATE"

// InheritCarry returns the file in which the daemon that executed this program left its state, nil if there
// is none.
func InheritCarry() *os.File {
	text := os.Getenv(carryEnv)
	os.Unsetenv(carryEnv)
	fd, err := strconv.ParseUint(text, 10, 16)
	if err != nil || fd <= 2 {
		return nil
	}
	syscall.CloseOnExec(int(fd))
	return os.NewFile(uintptr(fd), "state")
}

// OpenCarry makes the file in which the daemon leaves its state when it is executed again: in dir, without
// a name. It is called before the process confines itself.
func OpenCarry(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "threatstopd.")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// PassCarry has the program that this process is about to execute inherit the file, and returns the
// environment for it.
func PassCarry(f *os.File) ([]string, error) {
	fd, err := syscall.Dup(int(f.Fd())) // without close-on-exec
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	return append(os.Environ(), fmt.Sprintf("%s=%d", carryEnv, fd)), nil
}

// carried is what crosses beside the lists.
type carried struct {
	Text     string    // the configuration in force
	Read     time.Time // when that was read
	Started  time.Time
	LastGood time.Time
	Troubles map[string]*trouble
	Roles    []*role
	Tables   [2]status.Table
}

// save writes the state to the carry file. A state that cannot be written is lost, and nothing else.
func (d *Daemon) save() {
	f := d.o.Carry
	if f == nil {
		return
	}
	c := carried{d.setup.Text, d.setup.Read, d.started, d.lastGood, d.trouble.open, d.roles, [2]status.Table{d.tables[0].history, d.tables[1].history}}
	err := f.Truncate(0)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = json.NewEncoder(f).Encode(c)
	}
	if err == nil {
		err = d.sources.Save(f)
	}
	if err != nil {
		d.o.Log.Warn().Err(err).Msg("state not kept over the restart")
		f.Truncate(0)
	}
}

// CarriedText returns the configuration of the process that left its state in a file, and when it was read;
// empty if it left none. It is for when the configuration file cannot be used any more.
func CarriedText(f *os.File) (text string, read time.Time) {
	var c carried
	if f != nil {
		if _, err := f.Seek(0, io.SeekStart); err == nil && json.NewDecoder(f).Decode(&c) == nil {
			return c.Text, c.Read
		}
	}
	return "", time.Time{}
}

// restore takes over the state that the process before left, if it left any.
func (d *Daemon) restore() {
	f := d.o.Carry
	if f == nil {
		return
	}
	c := carried{Started: d.started}
	dec := json.NewDecoder(f)
	_, err := f.Seek(0, io.SeekStart)
	if err == nil {
		err = dec.Decode(&c)
	}
	if err == io.EOF {
		return // a first start
	}
	if err == nil {
		// The decoder has read ahead.
		err = d.sources.Load(io.MultiReader(dec.Buffered(), f))
	}
	if err != nil {
		d.o.Log.Warn().Err(err).Msg("state not kept over the restart")
		return
	}
	d.started, d.lastGood, d.roles = c.Started, c.LastGood, c.Roles
	for _, r := range d.roles {
		r.Started = time.Time{}
	}
	if c.Troubles != nil {
		d.trouble.open = c.Troubles
		d.trouble.forget([]string{"start: "}, nil) // Missing has those of this process
	}
	for i := range c.Tables {
		d.tables[i].history = c.Tables[i]
	}
	f.Truncate(0)
}
