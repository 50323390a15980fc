package report

// What version 1 spooled is taken over at the first start: segment files of binary records,
// and a binary watermark. This file is to be deleted in a year.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A record has a header of 64 bytes, all numbers little endian: magic (4), version (1), kind
// (1), length of the meta (2) and of the text (4), lines (4), sequence number (8), number up to
// which all had been delivered when it was written (8), time in nanoseconds (8), id (16),
// CRC-32C of meta and text (4), of the header (4). Meta is the watermark; the text follows it.
const (
	legacyHeader = 64
	legacyMark   = 25
)

var legacyMagic = []byte{0xf5, 'T', 'S', 'B', 1}

type legacyRecord struct {
	batch     batch
	seq, done uint64
	meta      []byte
}

// importLegacy turns what version 1 left into batch files, and returns what it could not.
func (r *Reporter) importLegacy() (strange []string) {
	for _, x := range []struct {
		prefix string
		to     spoolDir
	}{{"spool-", r.dir}, {"refused-", r.refused}} {
		paths, _ := filepath.Glob(filepath.Join(r.o.SpoolDir, x.prefix+"*.seg"))
		if len(paths) == 0 {
			continue
		}
		if err := r.importSegments(paths, x.to); err != nil {
			r.o.Log.Error().Err(err).Msg("batches of the earlier version not taken over: tried again at the next start")
			strange = append(strange, x.prefix+"*.seg: "+err.Error())
		}
	}
	r.importWatermark()
	return strange
}

func (r *Reporter) importSegments(paths []string, to spoolDir) error {
	if err := r.checkRefused(); err != nil {
		return err
	}
	// A sixteenth of the spool and one record.
	most := max(r.o.SpoolMax/16, 64<<10) + maxText + 1<<17
	var done uint64
	for _, path := range paths { // sorted by the first sequence number
		err := legacyRecords(path, most, func(x *legacyRecord) error { done = max(done, x.done); return nil })
		if err != nil {
			return err
		}
	}
	n := 0
	for _, path := range paths {
		err := legacyRecords(path, most, func(x *legacyRecord) error {
			if x.seq <= done || x.batch.lines == 0 {
				return nil
			}
			w, _ := legacyWatermark(x.meta)
			n++
			_, err := to.write(&x.batch, x.batch.text, &w)
			return err
		})
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	r.o.Log.Info().Int("batches", n).Msg("took over what the earlier version spooled")
	return nil
}

// legacyRecords calls f with each intact record of a segment.
func legacyRecords(path string, most int64, f func(*legacyRecord) error) error {
	file, err := openOwn(path)
	if err != nil {
		return err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > most {
		return fmt.Errorf("%s: more than the %d bytes of a segment: remove it", path, most)
	}
	le := binary.LittleEndian
	table := crc32.MakeTable(crc32.Castagnoli)
	for len(b) >= legacyHeader {
		h := b[:legacyHeader]
		meta, text := int(le.Uint16(h[6:])), int(le.Uint32(h[8:]))
		if !bytes.HasPrefix(h, legacyMagic) || le.Uint32(h[60:]) != crc32.Checksum(h[:60], table) ||
			text > len(b)-legacyHeader-meta || le.Uint32(h[56:]) != crc32.Checksum(b[legacyHeader:legacyHeader+meta+text], table) {
			// A torn record: look for the next one.
			i := bytes.Index(b[1:], legacyMagic)
			if i < 0 {
				return nil
			}
			b = b[1+i:]
			continue
		}
		body := b[legacyHeader : legacyHeader+meta+text]
		x := &legacyRecord{seq: le.Uint64(h[16:]), done: le.Uint64(h[24:]), meta: body[:meta]}
		x.batch = batch{id: ID(h[40:56]), created: time.Unix(0, int64(le.Uint64(h[32:]))), lines: int(le.Uint32(h[12:])), text: body[meta:]}
		if h[5] != 1 { // not a batch: it only says what was delivered
			x.batch.lines = 0
		}
		if err := f(x); err != nil {
			return err
		}
		b = b[legacyHeader+meta+text:]
	}
	return nil
}

// importWatermark turns the file of the watermark into the present one, unless that is there:
// magic, watermark, CRC-32C of both.
func (r *Reporter) importWatermark() {
	path := filepath.Join(r.o.SpoolDir, "watermark")
	if _, err := r.dir.readWatermark(); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	f, err := openOwn(path)
	if err != nil {
		return
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHeader))
	if n := len(b) - 4; err == nil && n > 4 && strings.HasPrefix(string(b), "TSWM") &&
		binary.LittleEndian.Uint32(b[n:]) == crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)) {
		if w, ok := legacyWatermark(b[4:n]); ok && r.dir.writeWatermark(&w) == nil {
			_ = os.Remove(path)
		}
	}
}

// legacyWatermark decodes version (1), generation (8), mark, number of gaps (1), their marks.
func legacyWatermark(b []byte) (w watermark, ok bool) {
	const least = 1 + 8 + legacyMark + 1
	if len(b) < least || b[0] != 1 || len(b) != least+int(b[least-1])*2*legacyMark || int(b[least-1]) > maxGaps {
		return w, false
	}
	decode := func(b []byte) mark {
		m := mark{Usec: int64(binary.LittleEndian.Uint64(b)), Before: b[24] != 0}
		if id := b[8:24]; !bytes.Equal(id, make([]byte, 16)) {
			m.ID = hex.EncodeToString(id)
		}
		return m
	}
	w.Gen, w.Done = binary.LittleEndian.Uint64(b[1:]), decode(b[9:])
	for b = b[least:]; len(b) > 0; b = b[2*legacyMark:] {
		w.Gaps = append(w.Gaps, gap{decode(b), decode(b[legacyMark:])})
	}
	return w, w.valid()
}
