// <camera-dialog>: takes a photo with the device's camera. It says "photo" with a file.

import { button, h, openDialog } from "./dom.js";
import { dialogHead } from "./product.js";
import { t } from "./words.js";

/** Whether the page can show what the camera sees; phones without take a photo by their own camera app. */
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia) && isSecureContext;

export class CameraDialog extends HTMLElement {
  #stream = null;

  connectedCallback() {
    if (this.dialog) return;
    this.video = h("video", { playsinline: true, "aria-label": t("camera.video") });
    this.video.muted = true;
    this.state = h("p", { class: "state", role: "status" });
    this.shutter = button(
      { label: t("camera.take"), symbol: "camera", class: "primary", disabled: true },
      () => this.#take(),
    );
    this.dialog = h(
      "dialog",
      { class: "wide camera", "aria-labelledby": "camera-title" },
      dialogHead(h("h2", { id: "camera-title" }, t("camera.title")), () => this.dialog.close()),
      this.video,
      this.state,
      h("div", { class: "buttons" }, this.shutter),
    );
    this.dialog.addEventListener("close", () => this.#stop());
    this.append(this.dialog);
  }

  async show() {
    this.state.textContent = t("camera.asking");
    this.shutter.disabled = true;
    openDialog(this.dialog);
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1920 } },
      });
      if (!this.dialog.open) return stream.getTracks().forEach((track) => track.stop());
      this.#stream = stream;
      this.video.srcObject = stream;
      await this.video.play();
      this.state.textContent = "";
      this.shutter.disabled = false;
      this.shutter.focus();
    } catch (error) {
      this.state.textContent = t(error.name === "NotFoundError" ? "camera.none" : "camera.refused");
    }
  }

  async #take() {
    const canvas = new OffscreenCanvas(this.video.videoWidth, this.video.videoHeight);
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
    this.dialog.close();
    this.dispatchEvent(new CustomEvent("photo", { detail: blob, bubbles: true }));
  }

  #stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.video.srcObject = null;
  }
}

customElements.define("camera-dialog", CameraDialog);
